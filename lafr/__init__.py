"""LAFR: one-step blind face restoration with a latent alignment adapter.

Importing this package loads nothing heavy: :class:`LAFRer` is resolved on first use, and :func:`register` imports the
networks, losses, models, metrics and datasets when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lafr.restorer import LAFRer

__version__ = "0.1.0"
__all__ = ["LAFRer", "__version__", "register"]

PLUGIN_PACKAGES = ("lafr_arch", "lafr_losses", "lafr_models", "lafr_metrics", "lafr_data")
PLUGIN_SUFFIXES = ("_arch", "_loss", "_model", "_metric", "_dataset")


def __getattr__(name: str) -> Any:
    """Resolve :class:`LAFRer` on first use (PEP 562)."""
    if name == "LAFRer":
        from lafr.restorer import LAFRer

        return LAFRer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "LAFRer"})


def register() -> None:
    """Import every module that adds a class to one of BasicSR's registries; calling it again does nothing.

    These are the modules of ``PLUGIN_PACKAGES`` whose names end in one of ``PLUGIN_SUFFIXES``, in alphabetical order.
    """
    import pkgutil
    from importlib import import_module

    import lafr_base.compat  # noqa: F401 - BasicSR can be imported only after it

    for package in PLUGIN_PACKAGES:
        for module in pkgutil.iter_modules(import_module(package).__path__):
            if module.name.endswith(PLUGIN_SUFFIXES):
                import_module(f"{package}.{module.name}")
