"""LAFR: one-step blind face restoration with a latent alignment adapter."""

from __future__ import annotations

__version__ = "0.1.0"
