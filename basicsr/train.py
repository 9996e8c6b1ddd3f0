"""Train a model from an option file: ``python basicsr/train.py -opt options/lafr_align.yml [--auto_resume]``.

This folder has no ``__init__.py`` on purpose: ``import basicsr`` must find the installed package, not this launcher.
"""

from __future__ import annotations

from pathlib import Path

from lafr_models.launcher import launch

if __name__ == "__main__":
    launch("train", Path(__file__).resolve().parents[1])
