"""Restore photos in a web page on this computer: drop photos, tick faces, compare, download.

The page is served at http://127.0.0.1:7860 to this computer alone, unless --host says otherwise. Nothing is sent
elsewhere, and a page's photos are removed when it is closed.
"""

from __future__ import annotations

import argparse
import logging
import sys

from lafr.commands.restore import add_machine_arguments
from lafr_base.weights import WeightsError

HELP = "restore photos in a web page on this computer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this computer alone)")
    add("--port", type=int, metavar="N", help="port to listen at (default: the first free one from 7860)")
    add("--no_browser", "--no-browser", action="store_true", help="do not open the page in a browser")
    add(
        "--model",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="models to pick from, as --model of lafr restore takes them (default: mini, and GFPGAN's, CodeFormer's "
        "and RestoreFormer's checkpoints where `lafr weights` finds them)",
    )
    add_machine_arguments(parser)
    add("--max_upload", type=int, default=100, metavar="MB", help="largest file, megabytes (default: 100)")
    add("--max_pixels", type=int, default=60, metavar="MP", help="largest photo, megapixels (default: 60)")
    add("--max_photos", type=int, default=100, metavar="N", help="photos of a page (default: 100)")
    add("--max_pages", type=int, default=20, metavar="N", help="pages open at once (default: 20)")
    add("--max_queue", type=int, default=20, metavar="N", help="requests that wait at once (default: 20)")


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted; return the exit status: 0, or 2 where it cannot be served."""
    for flag in ("max_upload", "max_pixels", "max_photos", "max_pages", "max_queue", "batch_size"):
        if getattr(args, flag) < 1:
            return _stop(f"--{flag} must be at least 1; got {getattr(args, flag)}")
    try:
        from lafr.page.app import build_page
    except ImportError as error:
        return _stop(f"lafr ui needs Gradio ({error}); pip install 'lafr[ui]'")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it runs
    from lafr.page.models import Models, offered
    from lafr.page.sessions import Limits

    try:
        models = Models(
            offered(args.model),
            args.device,
            args.detection_model,
            args.batch_size,
            args.detection_threshold,
            args.engine,
        )
        models.get(models.names[0])  # what is wrong with it is said now, not to the first user
        limits = Limits(args.max_photos, args.max_pixels * 1_000_000, args.max_pages)
        page = build_page(models, limits, args.max_queue)
        page.launch(args.host, args.port, args.max_upload, open_browser=not args.no_browser)
    except (ValueError, OSError, ImportError, WeightsError) as error:
        return _stop(str(error))
    return 0


def _stop(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
