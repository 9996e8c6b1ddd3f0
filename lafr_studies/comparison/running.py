"""Run the methods of a comparison: networks each in a process of its own, and folders of results."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lafr import __version__
from lafr.methods import MethodError, MethodSpec, parse_method
from lafr_base.files import digest, read_json, write_json
from lafr_base.images import ImageError, read_image, to_uint8
from lafr_base.weights import WeightsError
from lafr_studies.comparison.inputs import Input, Settings, cut_faces, images_by_stem
from lafr_studies.comparison.store import HQ, LQ, Store

WORKER = [sys.executable, "-m", "lafr_studies.comparison.worker"]
"""The command that restores with a network."""

_RESERVED = {LQ, HQ, ".cache"}
_LAST_LINES = 5  # of a dead process's output that are shown

Progress = Callable[[], None]


@dataclass
class Method:
    """A method of the comparison and what came of it.

    Attributes:
        text: as given on the command line.
        name: heading of its column and its folder.
        spec: what it is; None where its weights are missing.
        unavailable: why it has no result at all, or None.
        footprint: parameters, memory, threads: see `lafr_studies.comparison.worker`; empty for folders of results.
        records: of the inputs that are done, by input.
        errors: why inputs have no result, by input.
    """

    text: str
    name: str
    spec: MethodSpec | None = None
    unavailable: str | None = None
    footprint: dict[str, Any] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def read_methods(texts: Iterable[str]) -> list[Method]:
    """Read the methods named on the command line; those whose weights are missing say so.

    Raises:
        MethodError: no such method, a name that is taken or cannot be one, or a folder that is not there.
    """
    methods: list[Method] = []
    for text in texts:
        try:
            spec = parse_method(text)
            method = Method(text, spec.name, spec)
        except (WeightsError, FileNotFoundError) as error:
            method = Method(text, _likely_name(text), unavailable=str(error))
        if method.name.lower() in _RESERVED or method.name.startswith("."):
            raise MethodError(f"method {text!r}: {method.name!r} cannot be a method's name; give another: NAME=METHOD")
        if method.name.lower() in {other.name.lower() for other in methods}:
            raise MethodError(f"several methods are called {method.name}; rename one: NAME=METHOD")
        methods.append(method)
    return methods


def _likely_name(text: str) -> str:
    """Return the name that a method would have if its weights were there."""
    given = re.match(r"([\w.+-]+)=", text)
    if given:
        return given[1]
    head = text.partition(":")[0].partition(",")[0]
    return re.sub(r"[^\w.+-]", "_", Path(head).name) or "method"


def run_method(method: Method, items: Sequence[Input], settings: Settings, store: Store, progress: Progress) -> None:
    """Bring a method's results up to date; what cannot be had goes to its `errors` or `unavailable`.

    Args:
        method: its records, errors and footprint are set.
        items: inputs without an error and with at least one face.
        settings: of the comparison.
        store: where results go.
        progress: called once an input.

    Raises:
        ImageError: the folder cannot be written, or several results have the same name.
    """
    if method.spec is None:
        return
    if method.spec.is_network:
        _run_network(method, method.spec, items, settings, store, progress)
    else:
        _take_over(method, method.spec, items, settings, store, progress)


def fingerprint(spec: MethodSpec) -> str:
    """Return a digest of all that a network's results depend on: what it is, its options, its files' content."""
    files: list[Path] = []
    if spec.path is not None:
        files = [spec.path] if spec.path.is_file() else sorted(path for path in spec.path.rglob("*") if path.is_file())
    contents = [(path.name, digest(path)) for path in files]
    return digest([__version__, spec.kind, dict(spec.options), contents])


def _run_network(
    method: Method, spec: MethodSpec, items: Sequence[Input], settings: Settings, store: Store, progress: Progress
) -> None:
    own = fingerprint(spec)
    keys = {item.name: digest([own, asdict(settings), item.digest, item.faces]) for item in items}
    todo: list[Input] = []
    for item in items:
        record = store.record(method.name, item, keys[item.name])
        if record is None:
            todo.append(item)
        else:
            method.records[item.name] = record
            progress()
    footprint_path = store.cache / f"{method.name}.json"
    known = read_json(footprint_path)
    same = known.get("fingerprint") == own
    method.footprint = known["footprint"] if same else {}
    if not todo:
        return
    log = store.cache / f"{method.name}.log"
    for event in _events(spec, settings, store, todo, [keys[item.name] for item in todo], log):
        name = event.get("input", "")
        if event["event"] == "unavailable":
            method.unavailable = event["reason"]
        elif event["event"] == "footprint":
            method.footprint = _larger(method.footprint, event)
            write_json(footprint_path, {"fingerprint": own, "footprint": method.footprint})
        elif event["event"] == "failed":
            method.errors[name] = event["reason"]
            progress()
        elif event["event"] == "done":
            method.records[name] = read_json(store.record_path(method.name, _named(todo, name)))
            progress()


def _events(
    spec: MethodSpec, settings: Settings, store: Store, items: Sequence[Input], keys: Sequence[str], log: Path
) -> Iterator[dict[str, Any]]:
    """Yield what workers say; one that dies at an input is followed by another for the inputs after it."""
    from lafr_studies.comparison.worker import Job  # imports torch, which a finished comparison does not need

    start = 0
    while start < len(items):
        current: str | None = None
        finished = start
        job = Job(spec, settings, store.out, list(items[start:]), list(keys[start:]))
        for event in _talk(job, log):
            if event["event"] == "start":
                current = event["input"]
            elif event["event"] in ("done", "failed"):
                current, finished = None, finished + 1
            if event["event"] == "exit":
                if current is None and event["code"]:
                    yield {"event": "unavailable", "reason": f"the process ended {event['how']}"}
                    return
                if current is not None:
                    yield {"event": "failed", "input": current, "reason": f"the process ended {event['how']}"}
                    finished += 1
            elif event["event"] != "start":
                yield event
            if event["event"] == "unavailable":
                return
        start = finished


def _talk(job: Any, log: Path) -> Iterator[dict[str, Any]]:
    """Run one worker; yield its events and at last ``exit`` with its code and how it ended."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(job.to_json())
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
        except BrokenPipeError:  # it died before it had read its job; its exit code says more
            with contextlib.suppress(OSError):
                process.stdin.close()
        except BaseException:  # interrupted, or nobody listens any more
            process.terminate()
            raise
        code = process.wait()
    yield {"event": "exit", "code": code, "how": _how(code, log)}


def _how(code: int, log: Path) -> str:
    """Say how a process ended, with the last lines of what it wrote."""
    if code < 0:
        name = signal.Signals(-code).name
        text = f"by signal {name}" + (" (killed, perhaps for want of memory)" if name == "SIGKILL" else "")
    else:
        text = f"with exit status {code}"
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return text + (f": {' / '.join(lines[-_LAST_LINES:])}" if lines and code else "")


def _larger(known: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the footprint of all runs so far: peaks are the largest of them."""
    merged = {key: value for key, value in event.items() if key != "event"}
    for key in ("peak_mib", "gpu_mib"):
        values = [value for value in (known.get(key), merged.get(key)) if value is not None]
        merged[key] = max(values, default=None)
    return merged


def _take_over(
    method: Method, spec: MethodSpec, items: Sequence[Input], settings: Settings, store: Store, progress: Progress
) -> None:
    """Cut the faces out of the results of another program."""
    assert spec.path is not None
    try:
        results = images_by_stem(spec.path)
    except ImageError as error:
        method.unavailable = str(error)
        results = {}
    for item in items:
        if method.unavailable is None:
            try:
                method.records[item.name] = _take_over_one(method.name, spec.path, results, item, settings, store)
            except (ValueError, OSError) as error:
                method.errors[item.name] = str(error)
        progress()


def _take_over_one(
    name: str, folder: Path, results: Mapping[str, Path], item: Input, settings: Settings, store: Store
) -> dict[str, Any]:
    stem = item.path.stem
    path = results.get(stem) or (results.get(f"{stem}_00") if settings.aligned else None)
    if path is None:
        raise ValueError(f"{folder}: no image is called {stem}")
    key = digest([__version__, asdict(settings), item.digest, item.faces], path)
    record = store.record(name, item, key)
    if record is None:
        store.forget(name, item)
        image = to_uint8(read_image(path).bgr)
        try:
            faces = cut_faces(image, item, settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        record = store.save(name, item, key, faces, source=str(path))
    return record


def _named(items: Iterable[Input], name: str) -> Input:
    return next(item for item in items if item.name == name)
