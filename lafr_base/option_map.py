"""Options of a dataset, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lafr_base.option_keys import REQUIRED, Key, did_you_mean


class OptionError(ValueError):
    """A key or value of an option file that cannot be used."""


LOADER = (
    Key("name", str, REQUIRED, "what logs and folders of pictures call the set"),
    Key("type", str, REQUIRED, "class of the dataset"),
    Key("phase", str, None, "filled in: train, val or test"),
    Key("scale", int, None, "filled in from the top level"),
    Key("batch_size_per_gpu", int, None, "images that a process, or a GPU, takes at a time; needed in training"),
    Key("num_worker_per_gpu", int, None, "processes that read images, for each process or GPU; needed in training"),
    Key("dataset_enlarge_ratio", float, 1, "training: times that an epoch runs through the set"),
    Key("prefetch_mode", Literal["cpu", "cuda"] | None, None, "training: fetch batches ahead; cuda needs pin_memory"),
    Key("num_prefetch_queue", int, 1, "training: batches that `prefetch_mode: cpu` fetches ahead"),
    Key("pin_memory", bool, False, "page-locked memory, from which a GPU copies faster"),
    Key("persistent_workers", bool, False, "training: keep the processes that read from epoch to epoch"),
)
"""Keys of a dataset's options that BasicSR's launcher and loader read, not the dataset."""

LOADER_KEYS = frozenset(key.name for key in LOADER)


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
            known = sorted(self._known)
            hint = did_you_mean(unknown[0], [*known, *LOADER_KEYS]) if len(unknown) == 1 else ""
            hint = hint or f"; the options are {', '.join(known)}"
            raise ValueError(f"{self._kind}: unknown option {', '.join(unknown)}{hint}")
