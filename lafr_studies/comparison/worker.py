"""One method in a process of its own, so that its memory is its own: ``python -m lafr_studies.comparison.worker``.

Standard input holds one JSON document, a `Job`; standard output gets one JSON line for each event:

    {"event": "unavailable", "reason": ...}     the network cannot be loaded; nothing follows
    {"event": "footprint", ...}                 parameters, memory, threads; after loading and after every input
    {"event": "start", "input": NAME}           work on an input begins: if the process dies now, it was this one
    {"event": "done", "input": NAME}            its record is in the store
    {"event": "failed", "input": NAME, "reason": ...}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lafr.methods import MethodSpec
from lafr.networks import load_network, pick_device
from lafr.restorer import LAFRer, RestoredPhoto
from lafr_arch.restoring import RestoringNetwork
from lafr_base.images import to_uint8, write_image
from lafr_studies.comparison.inputs import Input, Settings, cut_faces, to_faces
from lafr_studies.comparison.store import Store

TIMING = (
    "median over faces of one forward pass of the network, batch 1, on the wall clock, after one warm-up pass in each "
    "process; reading, detection, cropping and pasting back are outside (CUDA: synchronised before and after)"
)
MEMORY = (
    "largest resident memory of the method's own process, Python and libraries included, and on a GPU the most that "
    "PyTorch had allocated there"
)

Emit = Callable[[dict[str, Any]], None]


@dataclass
class Job:
    """What a worker is to do.

    Attributes:
        method: a network.
        settings: those of the comparison.
        out: the comparison's folder.
        items: inputs to restore, none of which has an error.
        keys: of the records to write, one an input.
    """

    method: MethodSpec
    settings: Settings
    out: Path
    items: list[Input]
    keys: list[str]

    def to_json(self) -> str:
        """Return what `from_json` makes a Job of again."""
        spec = self.method
        method = {"name": spec.name, "kind": spec.kind, "path": spec.path and str(spec.path), "options": spec.options}
        items = [item.to_json() for item in self.items]
        settings = asdict(self.settings)
        return json.dumps(
            {"method": method, "settings": settings, "out": str(self.out), "items": items, "keys": self.keys}
        )

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Make a Job of what `to_json` returned."""
        fields = json.loads(text)
        method = fields["method"]
        return cls(
            method=MethodSpec(**{**method, "path": Path(method["path"]) if method["path"] else None}),
            settings=Settings(**fields["settings"]),
            out=Path(fields["out"]),
            items=[Input.from_json(item) for item in fields["items"]],
            keys=fields["keys"],
        )


class KnownFaces:
    """A detector that finds the faces it was told: all methods get the same."""

    name = "known"

    def __init__(self) -> None:
        self.item: Input | None = None

    def detect(self, image: np.ndarray) -> list[Any]:
        """Return the faces of `item`, whatever the picture."""
        return [] if self.item is None else to_faces(self.item)


class PassTimer:
    """Measures the seconds of each forward pass of a network from when it is attached."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self._start = 0.0

    def attach(self, network: nn.Module) -> None:
        """Start to measure."""
        network.register_forward_pre_hook(self._before)
        network.register_forward_hook(self._after)

    def _before(self, *args: Any) -> None:
        self._wait()
        self._start = time.perf_counter()

    def _after(self, *args: Any) -> None:
        self._wait()
        self.seconds.append(time.perf_counter() - self._start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_memory() -> float | None:
    """Return the largest resident memory of this process so far in MiB; None where the system does not tell."""
    try:
        # Not getrusage: its peak on Linux includes that of the process this one was started from.
        status = Path("/proc/self/status").read_text("ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def work(job: Job, emit: Emit) -> None:
    """Restore the inputs of a job one by one; one that fails does not stop the others."""
    device = pick_device(job.settings.device)
    idle = peak_memory()
    detector = KnownFaces()
    try:
        network = load_network(job.method, device)
        restorer = LAFRer(
            model=network,
            upscale=job.settings.upscale,
            device=device,
            detection_model=detector,
            batch_size=1,
            precision=job.settings.precision,
            identity=False,  # its time is not the method's
            keep_intact=False,  # networks are compared, not what is left of them
        )
        warm_up = np.full((restorer.face_size, restorer.face_size, 3), 128, np.uint8)
        restorer.enhance(warm_up, has_aligned=True)
    except Exception as error:
        emit({"event": "unavailable", "reason": reason(error)})
        return
    stopwatch = PassTimer(device)
    stopwatch.attach(restorer.network)  # what runs: for LAFRNet a faster copy of the one loaded
    weight = usual_weight(network) if job.settings.weight is None else job.settings.weight
    about = {
        "event": "footprint",
        "weight": None if network.weight_means == "none" else weight,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "face_size": restorer.face_size,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "idle_mib": idle,
    }
    emit({**about, **peaks(device)})
    store = Store(job.out)
    for item, key in zip(job.items, job.keys, strict=True):
        emit({"event": "start", "input": item.name})
        stopwatch.seconds.clear()
        detector.item = item
        try:
            restore(job, item, key, weight, restorer, stopwatch, store)
        except Exception as error:
            emit({"event": "failed", "input": item.name, "reason": reason(error)})
        else:
            emit({"event": "done", "input": item.name})
        emit({**about, **peaks(device)})


def usual_weight(network: RestoringNetwork) -> float:
    """Return the weight a network is compared with where none is asked for.

    That is 0 where it would keep tones of the photo: the network's own result. Where it is the network's own knob
    (CodeFormer's), it is 0.5, its authors' default.
    """
    return 0.0 if network.weight_means == "tones" else 0.5


def restore(
    job: Job, item: Input, key: str, weight: float, restorer: LAFRer, stopwatch: PassTimer, store: Store
) -> None:
    """Restore one input and put the result into the store."""
    store.forget(job.method.name, item)
    (result,) = restorer.enhance_many([item.path], has_aligned=job.settings.aligned, weight=weight)
    if result.error is not None:
        raise result.error
    image = result.restored_faces[0] if job.settings.aligned else result.restored_img
    if image is None:
        raise RuntimeError(f"{item.path}: no whole photo came back")
    faces = cut_faces(to_uint8(image), item, job.settings)
    write_result(store.result_path(job.method.name, item), image, result, job.settings.aligned)
    store.save(job.method.name, item, key, faces, result=True, seconds=list(stopwatch.seconds))


def write_result(path: Path, image: np.ndarray, result: RestoredPhoto, aligned: bool) -> None:
    """Write a whole photo or an aligned face with the colour profile of its input."""
    photo = result.photo
    write_image(
        path,
        image,
        alpha=None if aligned else result.restored_alpha,
        gray=photo is not None and photo.gray,
        icc_profile=None if photo is None else photo.icc_profile,
    )


def peaks(device: torch.device) -> dict[str, float | None]:
    """Return the peaks of memory so far in MiB."""
    gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"peak_mib": peak_memory(), "gpu_mib": gpu}


def reason(error: Exception) -> str:
    """Return what an error says, with its type where it says too little alone."""
    text = str(error).strip()
    plain = isinstance(error, (ValueError, OSError)) and bool(text)
    return text if plain else f"{type(error).__name__}: {text}".rstrip(": ")


def main() -> None:
    """Do the job on standard input."""
    job = Job.from_json(sys.stdin.read())
    # Libraries print to standard output: what they write there goes to standard error instead.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as events:
        os.dup2(2, 1)

        def emit(event: dict[str, Any]) -> None:
            events.write(json.dumps(event) + "\n")
            events.flush()

        work(job, emit)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
