"""The page of a comparison in a headless Chromium: order, selection, viewer, keys, and that it asks nothing outside."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lafr.cli import main
from webdriver import Browser, browser

EVIL = "<img src=x onerror=hacked=1>&amp;{{data}}"
"""An input's name that is none of HTML, of an entity and of the template."""

SIZE = 32
NAMES = (EVIL, "b", "c", "d")


def write(folder: Path, strengths: tuple[float, ...]) -> Path:
    """Write a picture for each name, with noise of a strength; none where it is negative."""
    folder.mkdir()
    for index, (name, strength) in enumerate(zip(NAMES, strengths, strict=True)):
        truth = np.random.default_rng(index).integers(60, 196, (SIZE, SIZE, 3))
        noise = np.random.default_rng(99).normal(0, 1, truth.shape)
        if strength >= 0:
            cv2.imwrite(str(folder / f"{name}.png"), np.rint(truth + strength * noise).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two folders of results: first is worst on d, then c, the evil one, b; second fails on c."""
    folder = tmp_path_factory.mktemp("compare")
    first = write(folder / "first", (10, 5, 15, 19))
    second = write(folder / "second", (2, 8, -1, 19.5))
    lq, gt = write(folder / "lq", (19,) * 4), write(folder / "gt", (0,) * 4)
    arguments = [str(lq), "--aligned", "--reference", str(gt), "--metrics", "ssim", "psnr", "dists"]
    arguments += ["--methods", f"first={first}", f"second={second}", "gfpgan:none.pth", "--out", str(folder / "out")]
    assert main(["compare", *arguments]) == 1
    return folder / "out"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as session:
        yield session


@pytest.fixture
def page(chromium: Browser, out: Path) -> Iterator[Callable[[str], Browser]]:
    """Opens the page with a hash; at the end the console must have stayed empty."""

    def show(hash_: str = "") -> Browser:
        chromium.open("about:blank")
        chromium.open((out / "index.html").as_uri() + hash_)
        return chromium

    yield show
    assert chromium.messages() == []
    assert chromium.run("return typeof hacked") == "undefined"


def order(shown: Browser) -> list[str]:
    ids = shown.run("return [...document.querySelectorAll('#faces > li')].map((row) => row.dataset.id)")
    return ["evil" if name == f"{EVIL}_00" else name.removesuffix("_00") for name in ids]


def choose(shown: Browser, name: str, value: str) -> None:
    shown.run(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
        name,
        value,
    )


def wait_until(condition: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.02)


def test_the_file_is_all_there_is(out: Path) -> None:
    text = (out / "index.html").read_text("utf-8")
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?!#)[\w/.]", text.partition("<script")[0])
    assert "http://" not in text.partition('id="report">')[0]
    assert "default-src 'none'" in text
    assert "<img src=x" not in text
    holders = re.findall(r'id="pictures-\d+">(.*?)</script>', text)
    assert [sorted(json.loads(holder)) for holder in holders][0] == ["first", "hq", "lq", "second"]


def test_worst_faces_come_first(page: Callable[[str], Browser]) -> None:
    shown = page("")
    assert order(shown) == ["d", "c", "evil", "b"]
    shown.click("#order")
    assert order(shown) == ["b", "evil", "c", "d"]
    shown.click("#order")
    choose(shown, "sort", "psnr")
    choose(shown, "of", "=second")
    assert order(shown) == ["c", "d", "b", "evil"], "a result that failed is the worst"
    choose(shown, "of", "-second")
    assert order(shown) == ["c", "b", "d", "evil"], "where it loses most against the first"
    choose(shown, "of", "any")
    assert order(shown)[0] == "c"
    choose(shown, "sort", "name")
    assert order(shown) == ["evil", "b", "c", "d"]


def test_cells(page: Callable[[str], Browser], out: Path) -> None:
    shown = page("#sort=psnr")
    cells = shown.run(
        "return [...document.querySelectorAll('#faces > li')].map((row) => [row.querySelector('h3').textContent,"
        " ...[...row.querySelectorAll('figure')].map((figure) => figure.textContent)])"
    )
    rows = {row[0].partition(". ")[2].strip(): row[1:] for row in cells}
    assert set(rows) == {f"{name}.png" for name in NAMES}
    report = json.loads((out / "report.json").read_text())
    first = next(row for row in report["faces"] if row["input"] == "b.png")
    assert rows["b.png"][1] == f"first{first['values']['first']['psnr']:.2f}"
    assert rows["c.png"][2].startswith("failed:")
    assert "no image is called c" in rows["c.png"][2]
    assert rows["b.png"][3] == "not rungfpgan"
    best = shown.run(
        "return [...document.querySelectorAll('figcaption .best')].map((e) => e.parentNode.firstChild.title)"
    )
    assert sorted(best) == ["first", "first", "second"], "c has nothing to be better than"
    assert "none.pth" in shown.run("return document.querySelector('tbody').textContent")
    assert "dists" in shown.run("return document.querySelector('main').textContent")


def test_selection(page: Callable[[str], Browser]) -> None:
    shown = page("#sort=psnr")
    shown.type("#filter", "ERROR=")
    assert order(shown) == ["evil"]
    shown.run("const f = document.getElementById('filter'); f.value = ''; f.dispatchEvent(new Event('input'))")
    choose(shown, "show", "errors")
    assert order(shown) == ["c"]
    choose(shown, "show", ">second")
    assert order(shown) == ["evil"]
    choose(shown, "show", "<second")
    assert order(shown) == ["d", "b"]
    assert shown.run("return document.getElementById('count').textContent") == "2 of 4 faces"
    hash_ = shown.run("return location.hash")
    assert order(page(hash_)) == ["d", "b"], "the address keeps the selection"


def test_pictures_are_those_of_the_files(page: Callable[[str], Browser], out: Path) -> None:
    shown = page("")
    selector = ".face[data-id='b_00'] img[data-column='first']"
    shown.run("document.querySelector(arguments[0]).scrollIntoView()", selector)
    wait_until(lambda: shown.run("return document.querySelector(arguments[0]).naturalWidth", selector) == SIZE)
    pixel = shown.run(
        "const image = document.querySelector(arguments[0]);"
        "const [width, height] = [image.naturalWidth, image.naturalHeight];"
        "const context = Object.assign(document.createElement('canvas'), {width, height}).getContext('2d');"
        "context.drawImage(image, 0, 0); return [...context.getImageData(0, 0, width, height).data]",
        selector,
    )
    drawn = np.array(pixel, np.float64).reshape(SIZE, SIZE, 4)[..., 2::-1]
    file = cv2.imread(str(out / "first" / "faces" / "b_00.png")).astype(np.float64)
    assert np.abs(drawn.mean((0, 1)) - file.mean((0, 1))).max() < 3


def viewer(shown: Browser) -> dict[str, Any]:
    return shown.run(
        "const d = document.getElementById('viewer'), s = (id) => document.getElementById(id);"
        "return {open: d.open, name: s('viewer-name').textContent, left: s('left').value, right: s('right').value,"
        " split: Number(s('split').value), zoom: s('zoom').textContent, clip: s('above').style.clipPath,"
        " divider: s('divider').style.left, focus: document.activeElement.id}"
    )


def test_viewer_by_keys(page: Callable[[str], Browser]) -> None:
    shown = page("")
    shown.run("document.querySelector(\".face[data-id='d_00'] button[data-column='second']\").focus()")
    shown.press("enter")
    wait_until(lambda: viewer(shown)["open"])
    state = viewer(shown)
    assert (state["name"], state["left"], state["right"]) == ("d.png", "lq", "second")
    assert (state["split"], state["focus"], state["divider"]) == (50, "split", "50%")
    shown.press("right", "right")
    state = viewer(shown)
    assert state["split"] == 51
    assert state["clip"] == "inset(0px 49% 0px 0px)"
    shown.press("+")
    assert viewer(shown)["zoom"] == "1.5×"
    shown.press("x")
    assert (viewer(shown)["left"], viewer(shown)["right"]) == ("second", "lq")
    shown.press("n")
    state = viewer(shown)
    assert (state["name"], state["left"], state["right"]) == ("c.png", "first", "lq"), "what it lacks is replaced"
    shown.press("n", "n")
    assert viewer(shown)["name"] == "b.png"
    shown.press("n")
    assert viewer(shown)["name"] == "b.png", "the last one"
    assert "face=b_00" in shown.run("return location.hash")
    shown.press("escape")
    focused = "const row = document.activeElement.closest('li'); return row && row.dataset.id"
    wait_until(lambda: shown.run(focused) == "b_00")  # the event of closing comes a moment after the closing
    assert not viewer(shown)["open"]


def test_viewer_by_pointer_and_address(page: Callable[[str], Browser]) -> None:
    shown = page("#face=b_00")
    wait_until(lambda: viewer(shown)["open"])
    box = shown.run("const b = document.getElementById('stage').getBoundingClientRect(); return [b.x, b.y, b.width]")
    middle, fifth, y = round(box[0] + box[2] / 2), round(box[0] + box[2] / 5), round(box[1] + box[2] / 4)
    at = {"duration": 0, "origin": "viewport", "y": y}
    start = [{"type": "pointerMove", "x": middle, **at}, {"type": "pointerDown", "button": 0}]
    shown.act("pointer", [*start, {"type": "pointerMove", "x": fifth, **at}, {"type": "pointerUp", "button": 0}])
    assert viewer(shown)["split"] == pytest.approx(20, abs=1)
    shown.act("wheel", [{"type": "scroll", "x": middle, "deltaX": 0, "deltaY": -120, **at}])
    wait_until(lambda: float(viewer(shown)["zoom"].rstrip("×")) > 1)
    assert float(viewer(shown)["divider"].rstrip("%")) == pytest.approx(20, abs=1), "zooming leaves the line alone"
    shown.click("#close")
    assert not viewer(shown)["open"]
