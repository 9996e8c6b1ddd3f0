"""What the page of `lafr ui` rests on, without a browser: photos, sessions, limits, downloads."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lafr.cli import main
from lafr.page.models import Models, offered
from lafr.page.photos import Settings
from lafr.page.sessions import Limits, Session, Sessions
from test_lafr_choice import watched
from test_lafr_restorer import Invert, found, photo


class TwoFaces(Models):
    """Finds two faces in every photo that is not black, and turns those asked for into their negatives."""

    def __init__(self) -> None:
        super().__init__(["mini", "other"])
        self.network = Invert()
        restorer = watched(found(40, 60), found(120, 60), model=self.network, identity_threshold=-9)
        self._loaded = {"mini": restorer, "other": restorer}


SETTINGS = Settings("mini", upscale=2)


def upload(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        cv2.imwrite(str(folder / name), photo(20 * index))
    return [folder / name for name in names]


def session(tmp_path: Path, limits: Limits | None = None) -> Session:
    return Session(tmp_path / "session", TwoFaces(), limits or Limits())


def run(work: Session, settings: Settings = SETTINGS) -> list[tuple[int, int]]:
    return list(work.restore(settings))


def test_faces_are_found_ticked_restored_and_shown(tmp_path: Path):
    work = session(tmp_path)
    assert list(work.add(upload(tmp_path / "in", "a.png", "b.jpg"))) == [0, 1]
    before = work.view(SETTINGS)
    assert [(p["name"], p["faces"], p["done"]) for p in before["photos"]] == [("a.png", 2, False), ("b.jpg", 2, False)]
    assert before["shown"]["after"] is None
    assert [face["restore"] for face in before["shown"]["faces"]] == [True, True]
    work.act({"kind": "tick", "photo": 0, "face": 1, "value": False})
    assert run(work) == [(0, 3), (1, 3), (3, 3)]
    shown = work.view(SETTINGS)["shown"]
    assert shown["after"].startswith("data:image/jpeg;base64,")
    first, second = shown["faces"]
    assert first["after"]
    assert first["identity"]["verdict"] == "same"
    assert second["after"] is None
    assert "identity" not in second


def test_strength_and_ticks_run_no_network(tmp_path: Path):
    models = TwoFaces()
    work = Session(tmp_path / "session", models, Limits())
    list(work.add(upload(tmp_path / "in", "a.png")))
    run(work)
    runs = len(models.network.batches)
    pictures = []
    for strength in (100, 50, 0):
        work.act({"kind": "strength", "photo": 0, "face": 0, "value": strength})
        pictures.append(work.view(SETTINGS)["shown"]["after"])
    work.act({"kind": "tick", "photo": 0, "face": 1, "value": False})
    pictures.append(work.view(SETTINGS)["shown"]["after"])
    work.view(Settings("mini", 4, keep_identity=True))
    assert len(set(pictures)) == 4
    assert run(work) == [(0, 0)]
    assert len(models.network.batches) == runs


def test_faces_are_ticked_by_how_sure_the_detector_is(tmp_path: Path):
    work = session(tmp_path)
    first, second = upload(tmp_path / "in", "a.png", "b.png")
    list(work.add([first]))
    work.photos[0].faces[0].found = replace(work.photos[0].faces[0].found, score=0.6)
    work.choose(min_score=0.7)
    assert [face["restore"] for face in work.view(SETTINGS)["shown"]["faces"]] == [False, True]
    assert [face["score"] for face in work.view(SETTINGS)["shown"]["faces"]] == [0.6, 0.9]
    work.choose(min_score=0.95)
    list(work.add([second]))  # a photo that comes later
    assert not any(face.restore for photo in work.photos.values() for face in photo.faces)
    work.choose(min_score=0)
    assert all(face.restore for photo in work.photos.values() for face in photo.faces)


def ticks(work: Session) -> list[bool]:
    return [face["restore"] for face in work.view(SETTINGS)["shown"]["faces"]]


def test_the_largest_faces_are_ticked(tmp_path: Path):
    work = session(tmp_path)
    list(work.add(upload(tmp_path / "in", "a.png")))
    big = work.photos[0].faces[1]
    big.found = replace(big.found, box=big.found.box + np.array([-9, -9, 9, 9]))
    work.choose(largest=1)
    assert ticks(work) == [False, True]
    work.choose(min_score=0.5)  # both conditions hold
    assert ticks(work) == [False, True]
    work.choose(largest=None)
    assert ticks(work) == [True, True]


def test_a_box_ticks_the_faces_in_it(tmp_path: Path):
    work = session(tmp_path)
    list(work.add(upload(tmp_path / "in", "a.png")))
    work.act({"kind": "box", "photo": 0, "value": [0.5, 0, 1, 1]})
    assert ticks(work) == [False, True]
    for wrong in ([0.5, 0, 0.2, 1], [0, 0, 1], "all", [0, 0, "1", 1], None):
        work.act({"kind": "box", "photo": 0, "value": wrong})
        assert ticks(work) == [False, True]
    work.act({"kind": "box", "photo": 0, "value": [0, 0, 1, 1]})
    assert ticks(work) == [True, True]


def test_faces_like_a_reference_are_ticked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work = session(tmp_path)
    first, second, black = upload(tmp_path / "in", "a.png", "b.png", "black.png")
    cv2.imwrite(str(black), np.zeros((120, 160, 3), np.uint8))
    list(work.add([first]))
    # The meter of these tests knows pictures by their colours: the faces of one photo differ in them.
    steps = work._models.get("mini").steps
    likenesses = iter([[0.9, 0.1], [0.1, 0.9]])
    compared: list[object] = []

    def compare(image: np.ndarray, found: list[Any], like: object) -> list[Any]:
        compared.append(like)
        return [replace(face, likeness=value) for face, value in zip(found, next(likenesses), strict=True)]

    monkeypatch.setattr(steps, "compared", compare, raising=False)
    monkeypatch.setattr(type(steps), "reference", lambda self, path: np.ones(128, np.float32))
    work.choose_like(first)
    assert ticks(work) == [True, False]
    assert [face["likeness"] for face in work.view(SETTINGS)["shown"]["faces"]] == [0.9, 0.1]
    list(work.add([second]))  # a photo that comes later
    work.act({"kind": "pick", "photo": 1})
    assert ticks(work) == [False, True]
    assert len(compared) == 2
    work.choose_like(None)
    assert ticks(work) == [True, True]
    assert [face["likeness"] for face in work.view(SETTINGS)["shown"]["faces"]] == [None, None]

    def nobody(self: object, path: Path) -> np.ndarray:
        raise ValueError(f"{path}: no face was found")

    monkeypatch.setattr(type(steps), "reference", nobody)
    work.choose_like(black)
    assert work.messages == ["black.png: no face was found"]
    assert ticks(work) == [True, True]


def test_another_model_starts_anew(tmp_path: Path):
    work = session(tmp_path)
    list(work.add(upload(tmp_path / "in", "a.png")))
    run(work)
    other = Settings("other")
    assert work.view(other)["shown"]["after"] is None
    assert run(work, other)[-1] == (2, 2)
    assert work.view(SETTINGS)["shown"]["after"]
    with pytest.raises(ValueError, match="not offered"):
        TwoFaces().get("gfpgan:../../secret")


def test_downloads_are_of_full_size_and_named_as_the_photos(tmp_path: Path):
    work = session(tmp_path)
    list(work.add(upload(tmp_path / "in", "a.png", "a.jpg")))
    run(work)
    work.act({"kind": "tick", "photo": 0, "face": 1, "value": False})
    single = work.download(SETTINGS, 0)
    assert single.suffix == ".png"
    pixels = cv2.imread(str(single))
    assert pixels.shape == (240, 320, 3)
    enlarged = cv2.resize(photo(0), (320, 240), interpolation=cv2.INTER_LANCZOS4)
    np.testing.assert_array_equal(pixels[:, 170:], enlarged[:, 170:])  # the face that is not ticked
    assert (pixels[:, :160] != enlarged[:, :160]).any()
    with zipfile.ZipFile(work.download(SETTINGS)) as archive:
        assert archive.namelist() == ["a_jpg.jpg", "a_png.png", "report.json", "report.csv"]
        report = json.loads(archive.read("report.json"))
    assert str(tmp_path) not in json.dumps(report)
    assert [entry["input"] for entry in report["photos"]] == ["a.png", "a.jpg"]
    assert [face["restored"] for face in report["photos"][0]["faces"]] == [True, False]
    with pytest.raises(ValueError, match="no photo"):
        session(tmp_path / "empty").download(SETTINGS)


def test_what_cannot_be_used_is_said_and_the_rest_goes_on(tmp_path: Path):
    work = session(tmp_path, Limits(photos=2, pixels=30_000))
    paths = upload(tmp_path / "in", "good.png", "second.png", "third.png")
    large, bad = tmp_path / "in" / "large.png", tmp_path / "in" / "bad.png"
    cv2.imwrite(str(large), photo(height=300, width=300))
    bad.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    list(work.add([bad, large, *paths]))
    said = work.view(SETTINGS)["messages"]
    assert [text.split(":")[0] for text in said[:2]] == ["bad.png", "large.png"]
    assert "300 x 300 px is more than the 30,000 pixels" in said[1]
    assert "No more than 2 photos" in said[2]
    assert str(tmp_path) not in " ".join(said)
    assert [p["name"] for p in work.view(SETTINGS)["photos"]] == ["good.png", "second.png"]


def test_a_photo_without_a_face_says_so(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "black.png"), photo() * 0)
    work = session(tmp_path)
    list(work.add([tmp_path / "black.png"]))
    assert work.view(SETTINGS)["messages"] == ["black.png: no face found"]
    assert run(work) == [(0, 0)]


def test_events_without_a_meaning_do_nothing(tmp_path: Path):
    work = session(tmp_path)
    list(work.add(upload(tmp_path / "in", "a.png")))
    before = work.view(SETTINGS)
    events: list[dict[str, Any]] = [
        {},
        {"kind": "pick", "photo": 7},
        {"kind": "pick", "photo": "../a"},
        {"kind": "tick", "photo": 0, "face": 9, "value": False},
        {"kind": "strength", "photo": 0, "face": 0, "value": 1e9},
        {"kind": "strength", "photo": 0, "face": 0, "value": "x"},
    ]
    for event in events:
        work.act(event)
    assert work.view(SETTINGS) == before


def test_a_network_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work = session(tmp_path)
    list(work.add(upload(tmp_path / "in", "a.png")))

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(work._models, "run", fail)
    run(work)
    assert work.view(SETTINGS)["messages"] == ["a.png: out of memory"]


def test_removed_photos_and_closed_pages_leave_no_file(tmp_path: Path):
    sessions = Sessions(TwoFaces(), Limits(sessions=2))
    root = sessions._root
    first = sessions.get("one")
    assert sessions.get("one") is first
    list(first.add(upload(tmp_path / "in", "a.png", "b.png")))
    run(first)
    first.download(SETTINGS)
    first.act({"kind": "remove", "photo": 0})
    assert first.current == 1
    assert [path.name for path in root.rglob("0*")] == []
    assert any(root.rglob("1.png"))
    sessions.get("two")
    sessions.get("three")  # makes room: the first is closed
    assert not any(root.rglob("*.png"))
    assert sessions.get("one") is not first
    sessions.close_all()
    assert not root.exists()


def test_models_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAFR_WEIGHTS", str(tmp_path))
    assert offered([])[0] == "mini"
    assert offered(["bicubic,size=64", "mini"]) == ["bicubic,size=64", "mini"]
    with pytest.raises(ValueError, match="folder of results"):
        offered([f"mine={tmp_path}"])
    with pytest.raises(FileNotFoundError):
        offered(["gfpgan:nowhere.pth"])


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    assert main(["ui", "--max_pixels", "0"]) == 2
    assert "--max_pixels must be at least 1" in capsys.readouterr().err
    import sys

    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "lafr.page.app", raising=False)
    assert main(["ui"]) == 2
    assert "pip install 'lafr[ui]'" in capsys.readouterr().err
