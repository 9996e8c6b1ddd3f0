"""Options of a dataset, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class OptionError(ValueError):
    """A key or value of an option file that cannot be used."""


# Keys of a dataset's options that BasicSR's launcher and loader read, not the dataset.
LOADER_KEYS = frozenset(
    {
        "name",
        "type",
        "phase",
        "scale",
        "batch_size_per_gpu",
        "num_worker_per_gpu",
        "dataset_enlarge_ratio",
        "prefetch_mode",
        "num_prefetch_queue",
        "pin_memory",
        "persistent_workers",
    }
)


class OptionMap:
    """A dataset's options, read one by one with their defaults; whatever is left over is an error.

    Args:
        opt: the mapping under ``datasets: train:`` or ``datasets: val:``.
        kind: name of the dataset class, for messages.
    """

    def __init__(self, opt: Mapping[str, Any], kind: str) -> None:
        self._opt = opt
        self._kind = kind
        self._known: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default`` where it is absent or null."""
        self._known.add(key)
        value = self._opt.get(key)
        return default if value is None else value

    def require(self, key: str) -> Any:
        """Return the value of ``key``.

        Raises:
            ValueError: it is absent; the message names it.
        """
        value = self.get(key)
        if value is None:
            raise ValueError(f"{self._kind}: the option `{key}` is missing")
        return value

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        """Return a whole number of at least ``minimum``; the option is required where ``default`` is None.

        Raises:
            ValueError: it is absent or something else; the message names it.
        """
        value = self.require(key) if default is None else self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"{self._kind}: `{key}: {value}` must be a whole number of at least {minimum}")
        return value

    def optional_integer(self, key: str, minimum: int = 1) -> int | None:
        """Return a whole number of at least ``minimum``, or None where the option is absent.

        Raises:
            ValueError: it is something else; the message names it.
        """
        return None if self.get(key) is None else self.integer(key, minimum=minimum)

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value.

        Raises:
            ValueError: it is something else; the message names it.
        """
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self._kind}: `{key}: {value}` must be true or false")
        return value

    def finish(self) -> None:
        """Check that every option was read.

        Raises:
            ValueError: some were not; the message names them.
        """
        unknown = [key for key in self._opt if key not in LOADER_KEYS and key not in self._known]
        if unknown:
            known = ", ".join(sorted(self._known))
            raise ValueError(f"{self._kind}: unknown option {', '.join(unknown)}; the options are {known}")
