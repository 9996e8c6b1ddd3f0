"""The console command ``lafr``: one subcommand for each module of the packages in :data:`PACKAGES`.

A command module has ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> int`` (the exit status), and
imports what is heavy inside ``run``. The module ``export_model.py`` becomes the subcommand ``export-model``.
"""

from __future__ import annotations

import argparse
import logging
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module

from lafr import __version__
from lafr_base.weights import WeightsError

PACKAGES = ("lafr.commands", "lafr_studies.commands")
"""Where subcommands are looked for. By name: nothing here imports the studies."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every subcommand; the parsed arguments hold its function as ``run``."""
    parser = argparse.ArgumentParser(prog="lafr", description="LAFR: one-step blind face restoration.")
    parser.add_argument("--version", action="version", version=f"lafr {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    found = [(info.name, name) for name in PACKAGES for info in pkgutil.iter_modules(import_module(name).__path__)]
    for name, package in sorted(found):
        module = import_module(f"{package}.{name}")
        subparser = subparsers.add_parser(
            name.replace("_", "-"), help=module.HELP, description=module.__doc__ or module.HELP
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand named in ``argv`` (default: the process's arguments) and return the exit status.

    0 means success, 1 that the command found something wrong and said so, 2 that it could not run.
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return int(args.run(args))
    except BrokenPipeError:  # as in `lafr weights | head`; the rest of the output has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, ImportError, WeightsError) as error:  # what the package raises on users' mistakes
        logging.debug("stopped", exc_info=True)
        print(f"lafr {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
