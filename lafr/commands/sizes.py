"""Count the parameters of the network of an option file, part by part; no weights are needed."""

from __future__ import annotations

import argparse
import json

HELP = "count the parameters of an option file's network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("option_file", metavar="OPTION_FILE", help="option file (YAML) with a LAFRNet as network_g")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(args: argparse.Namespace) -> int:
    """Count and print; return the exit status."""
    from lafr_models.options import lafr_options

    network_g = lafr_options(args.option_file)["network_g"]
    from lafr_arch.sizes import format_sizes, network_sizes

    sizes = network_sizes(network_g)
    print(json.dumps(sizes, indent=2) if args.json else format_sizes(sizes))
    return 0
