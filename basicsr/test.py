"""Test a model from an option file: ``python basicsr/test.py -opt options/test_lafr.yml``.

This folder has no ``__init__.py`` on purpose: ``import basicsr`` must find the installed package, not this launcher.
"""

from __future__ import annotations

from pathlib import Path

from lafr_base.compat import MissingPackageError
from lafr_models.launcher import hand_over, patch_training, run_pipeline
from lafr_models.options import output_root


def main() -> None:
    """Register the plugin, then run BasicSR's own test pipeline, into ``results/``."""
    try:
        hand_over()
    except MissingPackageError as error:
        raise SystemExit(str(error)) from None
    patch_training()
    from basicsr.test import test_pipeline

    run_pipeline(test_pipeline, output_root(Path(__file__).resolve().parents[1]))


if __name__ == "__main__":
    main()
