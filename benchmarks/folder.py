"""Faces a second from disk to disk, memory over many photos, and one process against two: `lafr batch` with mini.

    python benchmarks/folder.py --out folder.json

Photos are made on the spot from two public-domain portraits: degraded faces, each shifted, turned and lit differently,
and crowds of them for the detector. Every figure comes from processes of their own, which load the network, restore a
few photos to warm up, and start together when all are ready; what is timed is what follows, to the last line of the
manifest. `load_before` is the machine's load average before a run: what a speed was measured beside. `ratio` is the
throughput of two processes over that of one with as many threads as each of the two: medians of runs that take turns.
`files` is all but the network, at 512 x 512, which is what a GPU leaves to the CPU: by one thread to read, one to paste
and one to write, and by as many of each as there are cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from machine import machine, process_memory  # noqa: E402 - the script beside this one

SIZE = 256
"""Side of mini's faces in pixels."""

LARGE = 512
"""Side of Stable Diffusion's faces in pixels."""

CROWD = (3, 4)
"""Rows and columns of faces in a whole photo."""


def portraits() -> list[np.ndarray]:
    """The sample portraits' faces as FFHQ aligns them, (S, S, 3) BGR uint8, not degraded."""
    from lafr.demo import PORTRAITS
    from lafr.detectors import build_detector
    from lafr_base.geometry import align_matrix, warp_face

    detector = build_detector("builtin")
    faces = []
    for load in PORTRAITS.values():
        image = np.ascontiguousarray(load())
        faces.append(warp_face(image, align_matrix(detector.detect(image)[0].landmarks, 2 * SIZE), 2 * SIZE))
    return faces


def degraded(faces: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """One of the faces, moved, lit, blurred and noisy: no two are the same."""
    face = faces[generator.integers(len(faces))]
    if generator.random() < 0.5:
        face = face[:, ::-1]
    matrix = cv2.getRotationMatrix2D((SIZE, SIZE), generator.uniform(-6, 6), generator.uniform(0.48, 0.53))
    matrix[:, 2] += generator.uniform(-6, 6, 2) - SIZE / 2
    face = cv2.warpAffine(face, matrix, (SIZE, SIZE), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
    small = cv2.resize(face, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA).astype(np.float32)
    small = small * generator.uniform(0.7, 1.2) + generator.normal(0, 6, small.shape)
    return cv2.resize(np.clip(small, 0, 255).astype(np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


def write_faces(folder: Path, count: int, size: int = SIZE) -> None:
    """Write aligned faces as JPEG files, a thousand a sub-folder; nothing where the folder is there."""
    if folder.exists():
        return
    faces, generator = portraits(), np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index // 1000:03d}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.resize(degraded(faces, generator), (size, size)), [cv2.IMWRITE_JPEG_QUALITY, 85])


def write_crowds(folder: Path, count: int) -> None:
    """Write whole photos, each with `CROWD` faces side by side; nothing where the folder is there."""
    if folder.exists():
        return
    faces, generator = portraits(), np.random.default_rng(1)
    folder.mkdir(parents=True)
    for index in range(count):
        rows = [np.hstack([degraded(faces, generator) for _ in range(CROWD[1])]) for _ in range(CROWD[0])]
        cv2.imwrite(str(folder / f"{index:04d}.jpg"), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 90])


def child(options: dict[str, Any]) -> None:
    """Do a share; on standard output, say that all is ready, wait for a line, then give the figures as JSON."""
    import torch

    torch.set_num_threads(options["threads"])
    cv2.setNumThreads(options["threads"])
    from lafr import LAFRer
    from lafr.results import ResultFolder
    from lafr.scale.photos import Photos
    from lafr.scale.work import Job, run_share
    from lafr_base.images import read_image

    source, out, aligned = Path(options["source"]), Path(options["out"]), options["aligned"]
    model: Any = "mini"
    if options["helpers"]:
        model = torch.nn.Identity()
        model.image_size = LARGE
    restorer = LAFRer(model=model, upscale=1, detection_model="builtin", device="cpu", batch_size=options["batch"])
    restorer.threads = options["helpers"] or restorer.threads
    photos = Photos(source)
    warm_up = [read_image(photos.path(key)).bgr for key, _ in zip(photos, range(options["batch"]), strict=False)]
    list(restorer.enhance_many(warm_up, has_aligned=aligned))
    files = ResultFolder(out, aligned=aligned, face_folders=())
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.time()
    ledger = run_share(Job(photos, files, lambda: restorer), options["rank"], options["world"])
    end = time.time()
    print(json.dumps({"start": start, "end": end, "photos": len(ledger), "faces": ledger.faces} | memory()))


def memory() -> dict[str, float]:
    """The process's largest and its present memory in GB, where the system tells."""
    return {"peak_memory_gb": process_memory("VmHWM"), "memory_gb": process_memory("VmRSS")}


def measure(
    source: Path, world: int, threads: int, batch: int, aligned: bool = True, helpers: int = 0
) -> dict[str, Any]:
    """Restore a folder by `world` processes; faces a second over all of them.

    With `helpers`, so many threads read, and as many write, beside a network that does nothing.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as out:
        options: dict[str, Any] = {"source": str(source), "out": out, "aligned": aligned, "batch": batch}
        options |= {"threads": threads, "helpers": helpers}
        children = []
        for rank in range(world):
            arguments = json.dumps({**options, "rank": rank, "world": world})
            command = [sys.executable, str(Path(__file__).resolve()), "--child", arguments]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            pipe = subprocess.PIPE
            children.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment))
        for process in children:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError("a process did not start; its message is above")
        figures = []
        for process in children:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in children:
            text, _ = process.communicate()
            if process.returncode:
                raise RuntimeError("a process failed; its message is above")
            figures.append(json.loads(text))
        written = [path.stat().st_size for path in Path(out).rglob("*.*") if path.suffix in (".png", ".jpg")]
    seconds = max(f["end"] for f in figures) - min(f["start"] for f in figures)
    photos, faces = (sum(f[key] for f in figures) for key in ("photos", "faces"))
    return {
        "processes": world,
        "threads": threads,
        "load_before": load,
        "photos": photos,
        "faces": faces,
        "seconds": seconds,
        "photos_per_second": photos / seconds,
        "faces_per_second": faces / seconds,
        "shares": [f["photos"] for f in figures],
        "peak_memory_gb": [f["peak_memory_gb"] for f in figures],
        "memory_gb": [f["memory_gb"] for f in figures],
        "bytes_read_per_photo": sum(path.stat().st_size for path in source.rglob("*.jpg")) / photos,
        "bytes_written_per_photo": sum(written) / photos,
    }


def benchmark(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The parts of the report that were asked for."""
    report: dict[str, Any] = {"machine": machine(), "network": "mini", "batch": args.batch}
    threads = args.threads or os.cpu_count() or 1
    if "memory" in args.parts:
        runs = {}
        for count in args.photos:
            write_faces(folder / str(count), count)
            runs[str(count)] = measure(folder / str(count), 1, threads, args.batch)
        few, many = (runs[str(count)]["peak_memory_gb"][0] for count in (min(args.photos), max(args.photos)))
        report |= {"aligned": runs, "peak_memory_ratio": many / few}
    if "processes" in args.parts:
        write_faces(folder / "processes", args.faces)
        runs_of: dict[str, list[dict[str, Any]]] = {"one": [], "two": []}
        for _ in range(args.repeat):
            for name, world in (("one", 1), ("two", 2)):
                runs_of[name].append(
                    measure(folder / "processes", world, max(1, (os.cpu_count() or 1) // 2), args.batch)
                )
        one, two = (median(run["faces_per_second"] for run in runs) for runs in runs_of.values())
        report |= {"processes": runs_of, "faces_per_second": {"one": one, "two": two}, "ratio": two / one}
    if "whole" in args.parts:
        write_crowds(folder / "whole", args.crowds)
        report["whole"] = measure(folder / "whole", 1, threads, args.batch, aligned=False)
    if "files" in args.parts:
        write_faces(folder / "files", args.faces, LARGE)
        runs_by: dict[int, list[dict[str, Any]]] = {1: [], threads: []}
        for _ in range(args.repeat):
            for helpers, done in runs_by.items():
                done.append(measure(folder / "files", 1, 1, args.batch, helpers=helpers))
        report["files"] = {
            str(helpers): {"faces_per_second": median(run["faces_per_second"] for run in done), "runs": done}
            for helpers, done in runs_by.items()
        }
    return report


def table(report: dict[str, Any]) -> str:
    """The report in a few lines."""
    lines = []
    for count, run in report.get("aligned", {}).items():
        memory = f"peak memory {run['peak_memory_gb'][0]:.3f} GB"
        lines.append(
            f"{count} aligned faces, {run['threads']} threads: {run['faces_per_second']:.1f} a second, {memory}"
        )
    if "ratio" in report:
        speeds = report["faces_per_second"]
        lines.append(f"one process {speeds['one']:.1f}, two {speeds['two']:.1f} faces a second: {report['ratio']:.2f}")
    if "whole" in report:
        whole = report["whole"]
        lines.append(f"whole photos: {whole['photos_per_second']:.2f} a second, {whole['faces_per_second']:.1f} faces")
    for helpers, files in report.get("files", {}).items():
        lines.append(f"without the network, by {helpers} helpers: {files['faces_per_second']:.1f} faces of {LARGE} px")
    return "\n".join(lines)


def main() -> int:
    """Measure, write the report, print its summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("memory", "processes", "whole", "files")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what is measured (default: all)")
    parser.add_argument("--photos", type=int, nargs="+", default=[100, 5000], help="aligned faces of `memory`")
    parser.add_argument("--faces", type=int, default=300, help="aligned faces of `processes` and `files`")
    parser.add_argument("--crowds", type=int, default=20, help="photos of `whole`")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each of `processes` and `files`")
    parser.add_argument("--batch", type=int, default=8, help="faces at once")
    parser.add_argument("--threads", type=int, help="of `memory` and `whole` (default: one a core)")
    parser.add_argument("--folder", type=Path, help="where photos are made, and found again (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON file; other parts that it holds already are kept")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = benchmark(args, args.folder or Path(folder))
    if args.out:
        known = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**known, **report}, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
