"""Restore the faces of photos; `lafr restore` is the same command.

python inference_lafr.py -i photos -o results
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from lafr.commands import restore


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments (default: the process's), restore, and return the exit status."""
    parser = argparse.ArgumentParser(prog="inference_lafr.py", description=restore.__doc__)
    restore.add_arguments(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return restore.run(args)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
