"""The page of `lafr ui` in Chromium: from dropping photos to the file, a hostile file, two users at a time."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lafr.page.models import Models
from lafr.page.sessions import Limits
from lafr_base.images import read_image
from test_lafr_page import TwoFaces, upload
from test_lafr_restorer import photo
from webdriver import Browser, browser

pytest.importorskip("gradio", reason="no Gradio here (pip install 'lafr[ui]')")

EVIL = "<img src=x onerror=hacked=1>.png"
IDLE = "document.querySelector('.lafr .progress').hidden"
SECONDS = 90


@contextlib.contextmanager
def serve(models: Models, limits: Limits | None = None) -> Iterator[tuple[str, Path]]:
    """The page at an address, and the folder of its sessions."""
    from lafr.page.app import build_page

    page = build_page(models, limits or Limits())
    try:
        yield page.launch("127.0.0.1", None, max_file_mb=1, block=False), page.sessions._root
    finally:
        page.close()


class User:
    """Somebody at the page."""

    def __init__(self, session: Browser, address: str, downloads: Path) -> None:
        self.browser, self._downloads = session, downloads
        session.open(address)
        self.wait("document.querySelector('.lafr .empty') && document.querySelector('#drop input[type=file]')")

    def wait(self, condition: str) -> Any:
        end = time.monotonic() + SECONDS
        while not (value := self.browser.run(f"return {condition}")):
            assert time.monotonic() < end, f"never true: {condition}; {self.browser.messages()}"
            time.sleep(0.1)
        return value

    def drop(self, *paths: Path) -> None:
        self.browser.type("#drop input[type=file]", "\n".join(str(path) for path in paths))

    def faces(self, count: int) -> None:
        self.wait(f"document.querySelectorAll('.lafr .face').length === {count} && {IDLE}")

    def restore(self) -> None:
        self.browser.click("#restore")
        self.wait(f"document.querySelector('.lafr .is:not([hidden])') && {IDLE}")

    def texts(self, selector: str) -> list[str]:
        return self.browser.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
        )

    def download(self, button: str) -> Path:
        before = set(self._downloads.iterdir())
        self.browser.click(button)
        end = time.monotonic() + SECONDS
        while not (new := [p for p in set(self._downloads.iterdir()) - before if p.suffix != ".crdownload"]):
            assert time.monotonic() < end, "nothing was downloaded"
            time.sleep(0.1)
        return new[0]


@contextlib.contextmanager
def user(folder: Path, address: str, size: tuple[int, int] = (1280, 1000)) -> Iterator[User]:
    (folder / "downloads").mkdir(parents=True)
    with browser(folder, size, downloads=folder / "downloads") as session:
        yield User(session, address, folder / "downloads")
        own = "return performance.getEntriesByType('resource').map((e) => e.name)"
        elsewhere = [name for name in session.run(own) if not name.startswith((address, "data:", "blob:"))]
        assert elsewhere == [], "the page asks nothing of others"
        errors = [text for text in session.messages() if "Method not implemented" not in text]  # Gradio's own warning
        assert errors == []


def test_from_dropping_a_photo_to_the_file(tmp_path: Path):
    models = TwoFaces()
    with serve(models) as (address, root), user(tmp_path / "user", address) as someone:
        someone.drop(*upload(tmp_path / "in", "a.png", "b.png"))
        someone.wait(f"document.querySelectorAll('.lafr .photo').length === 2 && {IDLE}")
        someone.faces(2)
        assert someone.texts(".lafr .count") == ["2", "2"]
        assert someone.texts(".lafr .identity") == ["not restored yet"] * 2
        # Space unticks the second face: everything can be done by keys.
        someone.browser.run("document.querySelectorAll('.lafr .tick input')[1].focus()")
        someone.browser.press(" ")
        someone.wait("document.querySelectorAll('.lafr .identity')[1].textContent === 'stays as it is'")
        someone.restore()
        first, second = someone.texts(".lafr .identity")
        assert first.startswith("same person · ")
        assert second == "stays as it is"
        runs = len(models.network.batches)
        # The strength by keys; the focus stays where it is though the page is drawn anew.
        after = someone.browser.run("return document.querySelector('.lafr .after').src")
        someone.browser.run("document.querySelector('.lafr .strength input').focus()")
        someone.browser.press("right", "right")
        someone.wait(f"document.querySelector('.lafr .after').src !== {json.dumps(after)}")
        assert someone.texts(".lafr .strength output")[0] == "60 %"
        assert someone.browser.run("return document.activeElement.matches('.lafr .strength input')")
        someone.browser.run("document.querySelector('.lafr .split').focus()")
        someone.browser.press("left")
        assert someone.browser.run("return document.querySelector('.frame').style.getPropertyValue('--split')") == "49%"
        assert len(models.network.batches) == runs
        single = someone.download("#one")
        assert single.name == "a.png"
        pixels = cv2.imread(str(single))
        enlarged = cv2.resize(photo(0), (320, 240), interpolation=cv2.INTER_LANCZOS4)
        np.testing.assert_array_equal(pixels[:, 170:], enlarged[:, 170:])
        assert (pixels != enlarged).any()
        with zipfile.ZipFile(someone.download("#all")) as archive:
            assert archive.namelist() == ["a.png", "b.png", "report.json", "report.csv"]
        someone.browser.open("about:blank")
        end = time.monotonic() + SECONDS
        while any(root.rglob("*.png")):
            assert time.monotonic() < end, "a page that is closed leaves its files"
            time.sleep(0.2)


def test_a_hostile_file_is_named_and_does_nothing(tmp_path: Path):
    (tmp_path / "in").mkdir()
    evil, bomb, long = (tmp_path / "in" / name for name in (EVIL, "bomb.gif", "long.png"))
    evil.write_bytes(b"\x89PNG\r\n\x1a\n<script>hacked=1</script>")
    # 35 bytes that say they are 17,000 pixels a side.
    bomb.write_bytes(b"GIF89a\x68\x42\x68\x42\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x68\x42\x68\x42\0\x02\x02D\x01\0;")
    long.write_bytes(os.urandom(2_000_000))
    (good,) = upload(tmp_path / "in", "good.png")
    with serve(TwoFaces()) as (address, _), user(tmp_path / "user", address) as someone:
        someone.drop(evil, bomb, good)
        someone.faces(2)
        said = someone.texts(".lafr .messages li")
        assert len(said) == 2
        assert "onerror" in said[0]
        assert "17000 x 17000" in said[1] or "17,000" in said[1]
        assert someone.texts(".lafr .count") == ["2"]
        assert someone.browser.run("return typeof hacked") == "undefined"
        assert someone.browser.run("return document.querySelectorAll('.lafr .messages img').length") == 0
        someone.restore()
        someone.drop(long)  # twice what may be uploaded: refused before anything reads it
        time.sleep(2)
        assert someone.texts(".lafr .count") == ["✓ 2"]
        someone.browser.messages()  # the browser reports the refusal


def test_two_users_at_a_time_see_their_own_photos(tmp_path: Path):
    mine, yours = upload(tmp_path / "in", "mine.png", "yours.png")
    with (
        serve(TwoFaces()) as (address, _),
        user(tmp_path / "one", address) as one,
        user(tmp_path / "two", address, (420, 900)) as two,
    ):
        one.drop(mine)
        two.drop(yours)
        one.faces(2)
        two.faces(2)
        one.browser.click("#restore")
        two.browser.click("#restore")
        for each, name in ((one, "mine.png"), (two, "yours.png")):
            each.wait(f"document.querySelector('.lafr .is:not([hidden])') && {IDLE}")
            assert each.texts(".lafr figcaption") == [f"{name}, 160 x 120 px"]
            assert each.browser.run("return [...document.querySelectorAll('.lafr .pick')].map((e) => e.title)") == [
                name
            ]
            assert each.download("#one").name == name
        # A phone's screen is not scrolled sideways.
        assert two.browser.run("return document.documentElement.scrollWidth <= window.innerWidth")


def drag(session: Browser, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw over the photo, from one place to another, shares of its sides."""
    session.run(
        """
        const frame = document.querySelector('.lafr .frame'), area = frame.getBoundingClientRect();
        const send = (kind, [x, y]) => frame.dispatchEvent(new PointerEvent(kind, {bubbles: true, cancelable: true,
            clientX: area.left + x * area.width, clientY: area.top + y * area.height}));
        send('pointerdown', arguments[0]); send('pointermove', arguments[1]); send('pointerup', arguments[1]);
        """,
        list(start),
        list(end),
    )


def test_faces_are_ticked_by_a_box_and_by_size(tmp_path: Path):
    ticks = "[...document.querySelectorAll('.lafr .tick input')].map((e) => e.checked).join()"
    with serve(TwoFaces()) as (address, _), user(tmp_path / "user", address) as someone:
        someone.drop(*upload(tmp_path / "in", "a.png"))
        someone.faces(2)
        drag(someone.browser, (0.5, 0.1), (0.9, 0.9))  # moves the border, and ticks nothing
        someone.browser.click(".lafr .boxer")
        drag(someone.browser, (0.95, 0.9), (0.5, 0.1))
        someone.wait(f"{ticks} === 'false,true'")
        assert someone.browser.run("return document.querySelector('.lafr .boxer').ariaPressed") == "false"
        someone.browser.click("#choose button")
        someone.wait("document.querySelector('#largest input')?.checkVisibility()")
        someone.browser.type("#largest input", "1")  # 01: of faces as large as each other, the first
        someone.wait(f"{ticks} === 'true,false'")


def test_a_folder_is_dropped(tmp_path: Path):
    with serve(TwoFaces()) as (address, _), user(tmp_path / "user", address) as someone:
        # What a browser makes of a dropped folder with a photo, a text, and a folder with a photo in it.
        someone.browser.run(
            """
            const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
            const file = (name) => ({isFile: true, file: (done) => done(new File([bytes], name))});
            const folder = (...inside) => ({isDirectory: true, createReader: () => {
                const parts = [inside, []];
                return {readEntries: (done) => done(parts.shift())};
            }});
            const entry = folder(file('a.png'), file('notes.txt'), folder(file('B.PNG')));
            const event = new DragEvent('drop', {bubbles: true, cancelable: true});
            Object.defineProperty(event, 'dataTransfer', {value: {items: [{webkitGetAsEntry: () => entry}]}});
            document.querySelector('#drop').dispatchEvent(event);
            """,
            base64.b64encode(cv2.imencode(".png", photo(0))[1].tobytes()).decode(),
        )
        someone.wait(f"document.querySelectorAll('.lafr .photo').length === 2 && {IDLE}")
        names = "return [...document.querySelectorAll('.lafr .pick')].map((e) => e.title).sort()"
        assert someone.browser.run(names) == ["B.PNG", "a.png"]


class Slow(TwoFaces):
    """Takes a second for the faces of a photo."""

    def run(self, *arguments: Any) -> list[np.ndarray]:
        time.sleep(1)
        return super().run(*arguments)


def test_cancelling_stops_and_keeps_what_is_done(tmp_path: Path):
    models = Slow()
    names = [f"{index}.png" for index in range(9)]
    with serve(models) as (address, _), user(tmp_path / "user", address) as someone:
        someone.drop(*upload(tmp_path / "in", *names))
        someone.wait(f"document.querySelectorAll('.lafr .photo').length === {len(names)} && {IDLE}")
        someone.browser.click("#restore")
        someone.wait("/Restoring: [2-9] of 18/.test(document.querySelector('.lafr .progress span').textContent)")
        someone.browser.click("#cancel")
        someone.wait(IDLE)
        time.sleep(2)
        stopped = len(models.network.batches)
        assert stopped < len(names)
        time.sleep(2)
        assert len(models.network.batches) == stopped
        done = someone.texts(".lafr .photo.done .count")
        assert 1 <= len(done) <= stopped


def test_the_pages_of_the_readme(tmp_path: Path):
    """The bundled network on the sample portraits, as one photo of two; LAFR_SCREENSHOTS names where pictures go."""
    from lafr.demo import write_samples

    portraits = [read_image(sample.path).bgr for sample in write_samples(tmp_path / "samples")]
    height = min(portrait.shape[0] for portrait in portraits)
    cut = [portrait[:height] for portrait in portraits]
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "two_portraits.png"), np.hstack(cut))
    out = Path(os.environ.get("LAFR_SCREENSHOTS") or tmp_path)
    with (
        serve(Models(["mini"], "cpu", "builtin")) as (address, _),
        user(tmp_path / "user", address, (1280, 1090)) as someone,
    ):
        someone.drop(tmp_path / "in" / "two_portraits.png")
        someone.faces(2)
        someone.restore()
        assert all(text.startswith("same person") for text in someone.texts(".lafr .identity"))
        # The border through the left face.
        move = "const s = document.querySelector('.lafr .split'); s.value = 21; s.dispatchEvent(new Event('input'))"
        someone.browser.run(move)
        someone.browser.screenshot(tmp_path / "ui.png")
    picture = cv2.imread(str(tmp_path / "ui.png"))
    assert picture.shape[1] > 1000
    cv2.imwrite(str(out / "ui.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
