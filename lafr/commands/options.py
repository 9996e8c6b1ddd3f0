"""Print every key that an option file may have, with its type, default and meaning: docs/options.md."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "list the keys of option files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("--out", metavar="FILE", type=Path, help="write it (Markdown) here in place of printing it")


def run(args: argparse.Namespace) -> int:
    """Print or write the page; return the exit status."""
    from lafr import register
    from lafr_base.files import write_text

    register()
    from lafr_models.option_reference import reference

    if args.out is None:
        print(reference(), end="")
    else:
        write_text(args.out, reference())
    return 0
