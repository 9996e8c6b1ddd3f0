"""LAFR: one-step blind face restoration with a latent alignment adapter.

Importing this package loads nothing heavy: :class:`LAFRer` is resolved on first use, and :func:`register`, which only
training by BasicSR needs, imports the networks, losses, training stages, metrics and datasets when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lafr.restorer import LAFRer

__version__ = "0.1.0"
__all__ = ["LAFRer", "__version__", "register"]


def __getattr__(name: str) -> Any:
    """Resolve :class:`LAFRer` on first use (PEP 562)."""
    if name == "LAFRer":
        from lafr.restorer import LAFRer

        return LAFRer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "LAFRer"})


def register() -> None:
    """Add every network, loss, training stage, metric and dataset to BasicSR's registries; again, it does nothing.

    Raises:
        lafr_base.compat.MissingPackageError: BasicSR is not installed; the message says where it can be.
    """
    from lafr_models.launcher import hand_over

    hand_over()
