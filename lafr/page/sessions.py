"""A user's photos, from the first upload until the page is closed."""

from __future__ import annotations

import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lafr.choice import EVERY_FACE, FaceChoice
from lafr.page.models import Models
from lafr.page.photos import PagePhoto, Settings, open_photo
from lafr.report import CSV_NAME, JSON_NAME, photo_entry, write_report
from lafr.results import ResultFolder, output_names


@dataclass(frozen=True)
class Limits:
    """What a user may do.

    Attributes:
        photos: photos of a session.
        pixels: of a photo.
        sessions: sessions that are kept; the one not used for longest makes room.
    """

    photos: int = 100
    pixels: int = 60_000_000
    sessions: int = 20


class Session:
    """One open page.

    Args:
        folder: for its files; removed by `close`.
        models: what restores.
        limits: of what it may hold.
    """

    def __init__(self, folder: Path, models: Models, limits: Limits) -> None:
        self._folder, self._models, self._limits = folder, models, limits
        self.lock = threading.RLock()
        self.photos: dict[int, PagePhoto] = {}
        self.current: int | None = None
        self.messages: list[str] = []
        self.choice = EVERY_FACE
        """Which faces are ticked at first."""
        self._count = 0

    def add(self, paths: Iterable[str | Path]) -> Iterator[int]:
        """Take in uploaded files; yields how many are looked at. What cannot be used is told in `messages`."""
        self.messages = []
        for count, given in enumerate(paths):
            yield count
            source = Path(given)
            with self.lock:
                if len(self.photos) >= self._limits.photos:
                    self.messages.append(f"No more than {self._limits.photos} photos at once; the rest is left out.")
                    return
                self._add(source)

    def _add(self, source: Path) -> None:
        number = self._count
        self._count += 1
        # Numbered, so that no name of a user's reaches the file system.
        path = self._folder / f"{number}{source.suffix.lower()[:8]}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
            work = self._folder / f"{number}_faces"
            photo = open_photo(source.name, path, work, self._models, self._limits.pixels)
        except Exception as error:  # one bad file must not stop the others
            path.unlink(missing_ok=True)
            self.messages.append(f"{source.name}: {_reason(error, path)}")
            return
        if not photo.faces:
            self.messages.append(f"{source.name}: no face found")
        if self.choice.like is not None:
            photo.compare(self._models.get(self._models.names[0]), self.choice.like)
        photo.tick(self.choice)
        self.photos[number] = photo
        if self.current is None:
            self.current = number

    def remove(self, number: int) -> None:
        """Forget a photo and its files."""
        with self.lock:
            photo = self.photos.pop(number, None)
            if photo is None:
                return
            photo.path.unlink(missing_ok=True)
            shutil.rmtree(photo.folder, ignore_errors=True)
            if self.current == number:
                self.current = next(iter(self.photos), None)

    def restore(self, settings: Settings) -> Iterator[tuple[int, int]]:
        """Run the network over all ticked faces that it has not done; yields faces done and faces in all."""
        self.messages = []
        with self.lock:
            photos = list(self.photos.values())
        total = sum(len(photo.missing(settings.model)) for photo in photos)
        done = 0
        yield done, total
        for photo in photos:
            try:
                for count in photo.restore(self._models, settings.model):
                    done += count
                    yield done, total
            except Exception as error:
                self.messages.append(f"{photo.name}: {_reason(error, photo.path)}")

    def view(self, settings: Settings) -> dict[str, Any]:
        """Return all that the page shows; web/workbench.js says how. Nothing is going on then."""
        with self.lock:
            photo = None if self.current is None else self.photos[self.current]
            shown: dict[str, Any] | None = None
            if photo is not None:
                try:
                    shown = photo.preview(self._models.get(settings.model), settings)
                except Exception as error:
                    self.messages.append(f"{photo.name}: {_reason(error, photo.path)}")
            return {
                "photos": [
                    {
                        "id": number,
                        "name": each.name,
                        "thumb": each.thumb,
                        "faces": len(each.faces),
                        "done": bool(each.restored_by(settings.model)),
                    }
                    for number, each in self.photos.items()
                ],
                "current": self.current,
                "shown": shown,
                "messages": list(self.messages),
            }

    def act(self, event: Mapping[str, Any]) -> None:
        """Do what the user did in the page: pick or remove a photo, tick a face, move its strength."""
        with self.lock:
            number, kind = event.get("photo"), event.get("kind")
            photo = self.photos.get(number) if isinstance(number, int) else None
            if photo is None or number is None:
                return
            if kind == "pick":
                self.current = number
            elif kind == "remove":
                self.remove(number)
            elif kind in ("tick", "strength"):
                place, value = event.get("face"), event.get("value")
                if not isinstance(place, int) or not 0 <= place < len(photo.faces):
                    return
                if kind == "tick":
                    photo.faces[place].restore = bool(value)
                elif isinstance(value, (int, float)) and 0 <= value <= 100:
                    photo.faces[place].strength = round(value)
            elif kind == "box":
                self._tick_in(photo, event.get("value"))

    def _tick_in(self, photo: PagePhoto, box: Any) -> None:
        """Tick the faces in a box, shares of the photo's width and height, and no others of it."""
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            return
        x0, y0, x1, y1 = box
        if x0 < x1 and y0 < y1:
            pixels = (x0 * photo.width, y0 * photo.height, x1 * photo.width, y1 * photo.height)
            photo.tick(FaceChoice(box=pixels))

    def set_strength(self, strength: int) -> None:
        """Give all faces one strength."""
        with self.lock:
            for photo in self.photos.values():
                for face in photo.faces:
                    face.strength = strength

    def choose(self, **conditions: Any) -> None:
        """Tick the faces that meet all conditions, and no others; so with photos to come.

        Args:
            conditions: of `lafr.choice.FaceChoice`, `min_score` and `largest`; the others stay as they are.
        """
        with self.lock:
            self.choice = replace(self.choice, **conditions)
            self._tick_all()

    def choose_like(self, path: str | Path | None) -> None:
        """Tick the faces that look like the largest face of a photo; None for anybody.

        What is wrong with the photo is told in `messages`, and the choice stays.
        """
        with self.lock:
            self.messages = []
            restorer = self._models.get(self._models.names[0])
            like, least = None, None
            if path is not None:
                try:
                    like = self._models.reference(path)
                    least = restorer.composer.meter.calibration.threshold if restorer.composer.meter else None
                except Exception as error:
                    self.messages.append(f"{Path(path).name}: {_reason(error, Path(path))}")
                    return
            self.choice = replace(self.choice, like=like, min_likeness=least)
            for photo in self.photos.values():
                photo.compare(restorer, like)
            self._tick_all()

    def _tick_all(self) -> None:
        for photo in self.photos.values():
            photo.tick(self.choice)

    def download(self, settings: Settings, only: int | None = None) -> Path:
        """Write results in full size: one photo, or a zip of all with report.json and report.csv.

        Raises:
            ValueError: there is no photo.
        """
        with self.lock:
            chosen = {number: self.photos[number] for number in self.photos if only in (None, number)}
            if not chosen:
                raise ValueError("There is no photo yet.")
            out = self._folder / "results"
            shutil.rmtree(out, ignore_errors=True)
            files = ResultFolder(out, face_folders=())
            restorer = self._models.get(settings.model)
            about = {"model": settings.model, "keep_identity": settings.keep_identity}
            entries = []
            names = output_names([Path(f"{number}/{photo.name}") for number, photo in chosen.items()])
            for photo, name in zip(chosen.values(), names.values(), strict=True):
                result = photo.compose(restorer, settings, settings.upscale)
                files.write(Path(photo.name), name, result)
                written = result.output
                result.output = None if written is None else written.relative_to(out)
                entries.append(photo_entry(Path(photo.name), result, restorer.composer))
            write_report(out, about | {"identity_threshold": restorer.composer.least_identity}, entries)
            if only is not None:
                assert written is not None
                return written
            archive = self._folder / "lafr_results.zip"
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
                for path in sorted((out / "restored_imgs").iterdir()):
                    target.write(path, path.name)
                for name in (JSON_NAME, CSV_NAME):
                    target.write(out / name, name)
            return archive

    def close(self) -> None:
        """Remove all files."""
        with self.lock:
            self.photos.clear()
            self.current = None
            shutil.rmtree(self._folder, ignore_errors=True)


class Sessions:
    """The open pages, by the name that Gradio gives each.

    Args:
        models: what restores.
        limits: of each session, and how many there are.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models, self._limits = models, limits
        self._root = Path(tempfile.mkdtemp(prefix="lafr_ui_"))
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> Session:
        """Return a page's session; a new one where it has none."""
        with self._lock:
            session = self._sessions.pop(name, None)
            if session is None:
                folder = Path(tempfile.mkdtemp(dir=self._root))
                session = Session(folder, self._models, self._limits)
            self._sessions[name] = session  # last: the most recently used
            while len(self._sessions) > self._limits.sessions:
                self._sessions.pop(next(iter(self._sessions))).close()
            return session

    def close(self, name: str) -> None:
        """Forget a page and its files."""
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            session.close()

    def close_all(self) -> None:
        """Forget everything."""
        for name in list(self._sessions):
            self.close(name)
        shutil.rmtree(self._root, ignore_errors=True)


def _reason(error: Exception, path: Path) -> str:
    """Return what went wrong without the server's path in it."""
    text = str(error) or type(error).__name__
    return text.removeprefix(f"{path}: ").replace(str(path), "the photo")
