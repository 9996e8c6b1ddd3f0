"""The page of `lafr ui`, in Gradio. Nothing of it is fetched from elsewhere, and nothing is sent elsewhere."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lafr.page.models import Models
from lafr.page.photos import Settings
from lafr.page.sessions import Limits, Session, Sessions
from lafr_base.images import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

WEB = Path(__file__).parent / "web"
ENLARGEMENTS = (1, 2, 4)
LOOPBACK = ("127.0.0.1", "localhost", "::1")

KEPT_SECONDS = 600
"""Uploads and downloads are removed after so long; what a page works on, when the page is closed."""

# No fonts, scripts or pictures of other addresses, and nothing sent there. Gradio makes functions of templates of HTML
# at run time, hence unsafe-eval.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)


class _Headers:
    """Adds headers of security to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_more(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
                message["headers"] += [(key.encode(), value.encode()) for key, value in headers.items()]
            await send(message)

        await self._app(scope, receive, send_more)


@dataclass(frozen=True)
class Page:
    """The page and what it runs on.

    Attributes:
        blocks: Gradio's.
        sessions: the open pages.
        css: of the page.
        theme: of the page.
    """

    blocks: gr.Blocks
    sessions: Sessions
    css: str
    theme: gr.themes.Base

    def launch(
        self, host: str, port: int | None, max_file_mb: int, open_browser: bool = False, block: bool = True
    ) -> str:
        """Serve the page; return its address.

        Args:
            host: address to listen at.
            port: to listen at; None for a free one from 7860.
            max_file_mb: largest file taken, megabytes.
            open_browser: show it.
            block: return only when the server has stopped and everything is removed; else `close` does that.

        Raises:
            OSError: the port is taken.
        """
        middleware = [Middleware(_Headers)]
        if host in LOOPBACK:  # a page elsewhere must not reach this one under a name of its own
            middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK[:2], "[::1]"]))
        try:
            _, address, _ = self.blocks.launch(
                server_name=host,
                server_port=port,
                inbrowser=open_browser,
                max_file_size=max_file_mb * 1_000_000,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                footer_links=[],
                show_error=False,
                app_kwargs={"middleware": middleware},
                css=self.css,
                theme=self.theme,
            )
            if block:
                logger.info("The page is at %s; Ctrl-C ends it", address)
                self.blocks.block_thread()
        finally:
            if block:
                self.close()
        return str(address)

    def close(self) -> None:
        """Stop serving, and remove all files."""
        self.blocks.close(verbose=False)
        self.sessions.close_all()
        shutil.rmtree(self.blocks.GRADIO_CACHE, ignore_errors=True)


def build_page(models: Models, limits: Limits, queue: int = 20) -> Page:
    """Build the page.

    Args:
        models: what it offers.
        limits: of its users.
        queue: most users that wait for the network at once.
    """
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="lafr_ui_files_")
    sessions = Sessions(models, limits)
    # No names of Google's fonts: Gradio would fetch them.
    theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    with gr.Blocks(title="LAFR", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as blocks:
        _fill(blocks, models, sessions)
    blocks.queue(max_size=queue, default_concurrency_limit=8)
    return Page(blocks, sessions, (WEB / "page.css").read_text("utf-8"), theme)


def _fill(blocks: gr.Blocks, models: Models, sessions: Sessions) -> None:
    promise = "Nothing is sent elsewhere; closing the page removes everything."
    gr.HTML(f"<h1>LAFR</h1><p>Sharp faces in old, small and damaged photos. {promise}</p>", elem_id="title")
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=1, min_width=270, elem_id="controls"):
            files = gr.File(
                label="Photos", file_count="multiple", file_types=sorted(IMAGE_SUFFIXES), height=150, elem_id="drop"
            )
            folder = gr.UploadButton("Choose a folder", file_count="directory", size="sm", elem_id="folder")
            strength = gr.Slider(0, 100, value=50, step=5, label="Strength, %", elem_id="strength")
            upscale = gr.Radio(
                [(f"{factor}×", factor) for factor in ENLARGEMENTS], value=2, label="Enlarge", elem_id="upscale"
            )
            keep = gr.Checkbox(label="Keep the person: ease faces that change too much", elem_id="keep")
            model = gr.Dropdown(models.names, value=models.names[0], label="Model", elem_id="model")
            with gr.Accordion("Tick faces by a rule", open=False, elem_id="choose"):
                least = gr.Slider(0, 100, value=0, step=5, label="The detector is so sure, %", elem_id="least_score")
                largest = gr.Number(
                    0,
                    label="So many of the largest, 0 for all",
                    minimum=0,
                    maximum=1000,
                    precision=0,
                    elem_id="largest",
                )
                like = gr.File(
                    label="Like the face of this photo",
                    file_types=sorted(IMAGE_SUFFIXES),
                    height=110,
                    elem_id="like",
                )
            with gr.Row():
                start = gr.Button("Restore", variant="primary", elem_id="restore")
                stop = gr.Button("Cancel", elem_id="cancel")
            one = gr.Button("Download this photo", size="sm", elem_id="one")
            everything = gr.Button("Download all (zip)", size="sm", elem_id="all")
            ready = gr.DownloadButton("ready", visible="hidden", elem_id="ready")
        with gr.Column(scale=3, min_width=300):
            bench = gr.HTML(
                html_template=(WEB / "workbench.html").read_text("utf-8"),
                css_template=(WEB / "workbench.css").read_text("utf-8"),
                js_on_load=(WEB / "workbench.js").read_text("utf-8"),
                apply_default_css=False,
                elem_id="bench",
            )
    options = [model, upscale, keep]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def add(paths: list[str] | None, model: str, upscale: float, keep: bool, request: gr.Request) -> Iterator[Any]:
        session, settings = sessions.get(str(request.session_hash)), Settings(model, upscale, keep)
        found = [path for path in paths or [] if Path(path).suffix.lower() in IMAGE_SUFFIXES]
        for count in session.add(found):
            if count == 1:
                yield session.view(settings), None
            yield _progress(f"Looking for faces: photo {count + 1} of {len(found)}", count / len(found)), gr.skip()
        yield session.view(settings), None

    def restore(model: str, upscale: float, keep: bool, request: gr.Request) -> Iterator[Any]:
        session, settings = sessions.get(str(request.session_hash)), Settings(model, upscale, keep)
        for done, total in session.restore(settings):
            yield _progress(f"Restoring: {done} of {total} faces", done / max(total, 1))
        yield session.view(settings)

    def act(model: str, upscale: float, keep: bool, event: gr.EventData, request: gr.Request) -> Any:
        session = sessions.get(str(request.session_hash))
        session.act(event._data)
        return session.view(Settings(model, upscale, keep))

    def show(model: str, upscale: float, keep: bool, request: gr.Request) -> Any:
        return sessions.get(str(request.session_hash)).view(Settings(model, upscale, keep))

    def set_strength(value: float, model: str, upscale: float, keep: bool, request: gr.Request) -> Any:
        sessions.get(str(request.session_hash)).set_strength(round(value))
        return show(model, upscale, keep, request)

    def set_least_score(value: float, model: str, upscale: float, keep: bool, request: gr.Request) -> Any:
        sessions.get(str(request.session_hash)).choose(min_score=value / 100)
        return show(model, upscale, keep, request)

    def set_largest(value: float | None, model: str, upscale: float, keep: bool, request: gr.Request) -> Any:
        sessions.get(str(request.session_hash)).choose(largest=int(value or 0) or None)
        return show(model, upscale, keep, request)

    def set_like(path: str | None, model: str, upscale: float, keep: bool, request: gr.Request) -> Any:
        sessions.get(str(request.session_hash)).choose_like(path)
        return show(model, upscale, keep, request)

    def download_one(model: str, upscale: float, keep: bool, request: gr.Request) -> str:
        session = sessions.get(str(request.session_hash))
        return _file(session, Settings(model, upscale, keep), session.current)

    def download_all(model: str, upscale: float, keep: bool, request: gr.Request) -> str:
        return _file(sessions.get(str(request.session_hash)), Settings(model, upscale, keep), None)

    def forget(request: gr.Request) -> None:
        sessions.close(str(request.session_hash))

    for source in (files, folder):
        source.upload(add, [source, *options], [bench, source], concurrency_limit=2, **quiet)
    bench.input(act, options, bench, trigger_mode="multiple", **quiet)
    # Said at once: the network does one page's photos after the other's.
    asked = start.click(lambda: _progress("Waiting for the network", 0), None, bench, queue=False, **quiet)
    running = asked.then(restore, options, bench, concurrency_limit=1, **quiet)
    stop.click(show, options, bench, cancels=[running], **quiet)
    for setting in (model.change, upscale.change, keep.change):
        setting(show, options, bench, **quiet)
    strength.input(set_strength, [strength, *options], bench, trigger_mode="always_last", **quiet)
    least.input(set_least_score, [least, *options], bench, trigger_mode="always_last", **quiet)
    largest.change(set_largest, [largest, *options], bench, trigger_mode="always_last", **quiet)
    like.change(set_like, [like, *options], bench, **quiet)
    for button, prepare in ((one, download_one), (everything, download_all)):
        prepared = button.click(prepare, options, ready, show_progress="minimal", api_visibility="private")
        prepared.success(None, None, None, js="() => document.querySelector('#ready').click()")
    blocks.unload(forget)


def _progress(status: str, share: float) -> dict[str, Any]:
    """What the page shows of work that goes on: all else stays as it is."""
    return {"status": status, "share": share}


def _file(session: Session, settings: Settings, only: int | None) -> str:
    try:
        return str(session.download(settings, only))
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
