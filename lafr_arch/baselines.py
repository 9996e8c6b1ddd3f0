"""Methods to compare with, by name: what ``lafr compare --methods`` and ``lafr restore --model`` take beside LAFR's.

A module ``*baseline_arch.py`` of this package calls :func:`add_baseline` for each that it has; nothing else has to know
of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lafr_base.registry import Registry


@dataclass(frozen=True)
class Option:
    """A number that a baseline takes, after a comma: ``codeformer:PATH,w=0.7``.

    Attributes:
        valid: whether it may have a value.
        said: what it must be, for messages.
    """

    valid: Callable[[float], bool]
    said: str


@dataclass(frozen=True, kw_only=True)
class BaselineSpec:
    """One baseline.

    Attributes:
        name: what commands call it.
        build: makes its network, under :class:`lafr_arch.restoring.RestoringNetwork`, of the path of its checkpoint
            (None for one that has none) and its options.
        weights: its checkpoint where no path is given, a name of ``lafr weights``; None for a baseline without one.
        options: numbers that it takes.
        folder: its path is that of a folder.
    """

    name: str
    build: Callable[[str | None, Mapping[str, float]], Any]
    weights: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    folder: bool = False

    def check(self, options: Mapping[str, float]) -> None:
        """Check the options given.

        Raises:
            ValueError: one is unknown or has no valid value.
        """
        for key, value in options.items():
            if key not in self.options:
                takes = f"it takes {', '.join(self.options)}" if self.options else "it takes none"
                raise ValueError(f"{self.name} has no option {key!r}; {takes}")
            if not self.options[key].valid(value):
                raise ValueError(f"{key} must be {self.options[key].said}; got {value:g}")


BASELINES = Registry("baseline", "lafr_arch", "baseline_arch")
"""All baselines, by name: :class:`BaselineSpec`."""


def add_baseline(spec: BaselineSpec) -> None:
    """Make a baseline known.

    Raises:
        ValueError: another has its name.
    """
    BASELINES.register(spec.name)(spec)
