"""Test a model from an option file: ``python basicsr/test.py -opt options/test_lafr.yml``.

This folder has no ``__init__.py`` on purpose: ``import basicsr`` must find the installed package, not this launcher.
"""

from __future__ import annotations

from pathlib import Path

from lafr_models.launcher import launch

if __name__ == "__main__":
    launch("test", Path(__file__).resolve().parents[1])
