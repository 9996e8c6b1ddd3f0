"""Registries: classes by name, as option files and folders name them.

A module whose name has its registry's suffix registers what it defines, and is imported when a name is first looked
for: a new network, loss, metric, dataset, training stage, detector or baseline is one file, and nothing else has to
know of it.

    @ARCH_REGISTRY.register()
    class NewNetwork(nn.Module): ...

BasicSR's registries of the same names are needed by its training alone: ``lafr.register`` hands all over to them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, TypeVar

from lafr_base.option_keys import did_you_mean

_T = TypeVar("_T")


class UnknownNameError(KeyError, ValueError):
    """No such thing is registered; the message says what there is."""

    def __str__(self) -> str:
        return str(self.args[0])


class Registry(Mapping[str, Any]):
    """What there is of one kind, by name.

    Args:
        kind: what it is, for messages.
        package: where to look for more when a name is not known.
        suffix: what the names of the modules there end in.
    """

    def __init__(self, kind: str, package: str, suffix: str) -> None:
        self.kind, self.package, self.suffix = kind, package, suffix
        self._found: dict[str, Any] = {}
        self._complete = False

    def register(self, name: str | None = None) -> Callable[[_T], _T]:
        """Return a decorator that adds a class or function, or what else there is, under its own name or another.

        Raises:
            ValueError: when it is called: another has that name.
        """

        def add(found: _T) -> _T:
            label = name or found.__name__  # type: ignore[attr-defined]
            if self._found.setdefault(label, found) is not found:
                raise ValueError(f"there are two {self.kind}s called {label}: {self._found[label]!r} and {found!r}")
            return found

        return add

    def _discover(self) -> None:
        if self._complete:
            return
        self._complete = True  # before the modules, which may look for a name themselves
        try:
            for module in pkgutil.iter_modules(import_module(self.package).__path__):
                if module.name.endswith(self.suffix):
                    import_module(f"{self.package}.{module.name}")
        except BaseException:
            self._complete = False
            raise

    def __getitem__(self, name: str) -> Any:
        """Return what is called ``name``.

        Raises:
            UnknownNameError: there is none.
        """
        if name not in self._found:
            self._discover()
        if name not in self._found:
            raise UnknownNameError(
                f"no {self.kind} is called {name!r}{did_you_mean(name, self._found)}; known: {', '.join(self)}"
            )
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(self._found)

    def __len__(self) -> int:
        self._discover()
        return len(self._found)

    def build(self, options: Mapping[str, Any], **defaults: Any) -> Any:
        """Call what ``options`` name under ``type``, with the other options as keywords.

        Args:
            options: ``type`` and arguments.
            defaults: arguments that options may override.

        Raises:
            UnknownNameError: the type is unknown or missing.
            TypeError: it does not take these arguments.
        """
        arguments = {**defaults, **options}
        return self[arguments.pop("type", "")](**arguments)


ARCH_REGISTRY = Registry("network", "lafr_arch", "_arch")
LOSS_REGISTRY = Registry("loss", "lafr_losses", "_loss")
METRIC_REGISTRY = Registry("metric of validation", "lafr_metrics", "validation")
DATASET_REGISTRY = Registry("dataset", "lafr_data", "_dataset")
MODEL_REGISTRY = Registry("training stage", "lafr_models", "_model")

REGISTRIES = (ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY)
"""Those that BasicSR has, too."""
