"""Make ``import basicsr`` (1.4.2) work with any torchvision: import this module before it."""

from __future__ import annotations

import importlib.util
import sys
import types


def alias_functional_tensor() -> None:
    """Provide ``torchvision.transforms.functional_tensor``, which torchvision 0.17 removed and BasicSR imports."""
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms import functional

    module = types.ModuleType(name)
    module.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[name] = module


alias_functional_tensor()
