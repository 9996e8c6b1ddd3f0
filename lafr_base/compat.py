"""What BasicSR 1.4.2 needs before it is imported, and whether it is there: only training needs it.

Importing this module makes ``import basicsr`` work with any torchvision; it loads neither.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader

MISSING = (
    "training needs BasicSR, which is not installed: its source builds on Python 3.10 to 3.12 "
    "(pip install basicsr==1.4.2 there); restoring, lafr compare and lafr evaluate do without it"
)
"""What is said where BasicSR is needed and is not there."""


class MissingPackageError(ImportError):
    """A package that only a part of this project needs is not installed; the message says how to install it."""


class _FunctionalTensor(MetaPathFinder, Loader):
    """Makes ``torchvision.transforms.functional_tensor``, which torchvision 0.17 removed and BasicSR imports."""

    NAME = "torchvision.transforms.functional_tensor"

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname == self.NAME else None

    def exec_module(self, module: types.ModuleType) -> None:
        from torchvision.transforms import functional

        module.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]


if not any(isinstance(finder, _FunctionalTensor) for finder in sys.meta_path):
    sys.meta_path.append(_FunctionalTensor())  # the last: a torchvision that has the module is asked first


def has_basicsr() -> bool:
    """Whether BasicSR is installed; this repository's folder of that name, which is no package, does not count."""
    spec = find_spec("basicsr")
    return spec is not None and spec.origin is not None


def require_basicsr() -> None:
    """Check that BasicSR is installed.

    Raises:
        MissingPackageError: it is not; the message says where it can be.
    """
    if not has_basicsr():
        raise MissingPackageError(MISSING)
