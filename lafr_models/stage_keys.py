"""What a training stage declares of its options, and how it reads them.

A new key takes one line: a :class:`~lafr_base.option_keys.Key` in ``TRAIN_KEYS`` (or ``VAL_KEYS``) of the stage that
reads it by ``self.option(NAME)``. The check before a run and docs/options.md follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lafr_base.option_keys import REQUIRED, Key


@dataclass(frozen=True)
class NetworkKey(Key):
    """A network of a stage, a key of the option file's top level.

    Attributes:
        filled: arguments that the stage gives the network where the option file does not.
    """

    filled: tuple[str, ...] = ()


class StageKeys:
    """Base of the training stages: its class attributes say which options there are.

    Attributes:
        TRAIN_KEYS: of ``train:``, besides those of the classes above.
        VAL_KEYS: of ``val:``.
        NETWORKS: networks that the stage builds.
    """

    TRAIN_KEYS: ClassVar[tuple[Key, ...]] = ()
    VAL_KEYS: ClassVar[tuple[Key, ...]] = ()
    NETWORKS: ClassVar[tuple[NetworkKey, ...]] = (NetworkKey("network_g", Mapping, REQUIRED, "the network"),)

    opt: dict[str, Any]

    @classmethod
    def keys(cls, attribute: str) -> list[Any]:
        """The keys of a class attribute, those of the classes above behind them; the first of a name counts."""
        found: dict[str, Key] = {}
        for owner in cls.__mro__:
            for key in vars(owner).get(attribute, ()):
                found.setdefault(key.name, key)
        return list(found.values())

    @classmethod
    def faults(cls, opt: Mapping[str, Any]) -> list[str]:
        """What does not fit together in an option file, beyond single values; said before the run starts.

        Args:
            opt: the option file; ``train:`` may be missing, in tests.
        """
        return []

    def option(self, name: str, section: str = "train") -> Any:
        """The value of a declared key, or its default."""
        key = next(key for key in self.keys(f"{section.upper()}_KEYS") if key.fits(name))
        value = (self.opt.get(section) or {}).get(name)
        if value is None:
            return key.default
        return float(value) if key.kind is float else value
