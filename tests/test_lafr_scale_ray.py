"""lafr batch --workers: the same lines and files, also when an actor dies."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lafr.results import RestoredPhoto, ResultFolder
from lafr.scale.entries import read_entries
from lafr.scale.manifest import is_written
from lafr.scale.photos import Photos
from lafr.scale.work import Job
from scale_worker import read_manifests

pytest.importorskip("ray.data", reason="Ray Data is an extra: pip install 'lafr[scale]'")

DEATHS = 2


def make_job(source: Path, out: Path, deaths: Path) -> Job:
    """A job whose restorer kills its process at the 20th photo, `DEATHS` times in all; pickled by value."""

    def build() -> Any:
        from lafr.composing import Composer
        from lafr_base.images import read_image

        class Mortal:
            threads = 2
            composer = Composer(1)

            def enhance_many(self, images: Iterable[Path], **_: Any) -> Iterator[RestoredPhoto]:
                for index, path in enumerate(images):
                    if index == 20 and len(list(deaths.iterdir())) < DEATHS:
                        (deaths / str(os.getpid())).touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = RestoredPhoto(1, 8)
                    try:
                        result.photo = read_image(path)
                        result.cropped_faces = result.restored_faces = [result.photo.bgr]
                    except ValueError as error:
                        result.error = error
                    yield result

        return Mortal()

    return Job(Photos(source), ResultFolder(out, aligned=True, face_folders=()), build)


def test_actors_may_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import ray

    from lafr.scale.ray_engine import run_ray

    source, out, deaths = tmp_path / "in", tmp_path / "out", tmp_path / "deaths"
    for folder in (source / "a", deaths):
        folder.mkdir(parents=True)
    for index in range(150):
        cv2.imwrite(str(source / "a" / f"{index}.png"), np.full((8, 8, 3), index, np.uint8))
    (source / "empty.png").touch()
    (source / "photos.txt").write_text("".join(f"{path}\n" for path in [*source.rglob("*.png"), source / "empty.png"]))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # on a busy machine Ray's default of 15 takes minutes
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
    try:
        ledger = run_ray(make_job(source, out, deaths), workers=2)
        assert len(list(deaths.iterdir())) == DEATHS
        assert (len(ledger), ledger.count("restored"), ledger.count("failed")) == (151, 150, 1)
        lines = list(read_manifests(out))
        assert set(Counter(line.photo for line in lines).values()) == {1}
        # Of the 20 photos before a death, all but those still being written.
        assert sum(line.recovered for line in lines) >= (20 - 2 * 2 - 2) * DEATHS
        assert len(list(out.rglob("*.png"))) == 150
        assert not is_written(out), "actors outlive their work"
        entries = list(read_entries(out, Photos(source)))
        assert (len(entries), sum(len(entry["faces"]) for entry in entries)) == (151, 150)
        # Again, from a list in which one is twice: the failed one is tried, and nothing else.
        (source / "empty.png").write_bytes((source / "a" / "7.png").read_bytes())
        job = make_job(source, out, deaths)
        listed = Job(Photos(source / "photos.txt", root=source), job.files, job.build)
        assert run_ray(listed, workers=1).count("failed") == 1
        assert len(list(read_manifests(out))) == 151
        ledger = run_ray(listed, workers=1, retry_failed=True)
        assert (len(ledger), ledger.count("failed")) == (151, 0)
        assert len(list(read_manifests(out))) == 152
    finally:
        ray.shutdown()
