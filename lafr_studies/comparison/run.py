"""The whole comparison: find faces, run the methods, measure, write tables and page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lafr import __version__
from lafr.detectors import build_detector
from lafr.networks import pick_device
from lafr_base.files import digest, write_json, write_text
from lafr_base.images import ImageError, list_images, read_image, to_uint8
from lafr_metrics.suite import Suite
from lafr_studies.comparison import tables
from lafr_studies.comparison.comparison_report import build_report
from lafr_studies.comparison.inputs import (
    FACE_SIZE,
    Input,
    Settings,
    common_side,
    cut_faces,
    find_faces,
    match_references,
    read_input,
)
from lafr_studies.comparison.measure import Measurer
from lafr_studies.comparison.page import Pictures, write_page
from lafr_studies.comparison.running import Method, run_method
from lafr_studies.comparison.store import HQ, LQ, Store

logger = logging.getLogger(__name__)

Bar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Opens a progress bar of a title and a total; what it gives is called once a step."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        inputs: name of the results of each photo, by file.
        methods: what to compare; differences are against the first.
        out: folder of the results.
        reference: folder of the same photos undegraded, or None.
        metrics: names of `lafr_metrics.suite.METRICS`; None for all.
        aligned: inputs are FFHQ-aligned faces.
        size: side in pixels at which faces are measured; None for that of the references, else of the inputs where
            these are aligned faces, and `FACE_SIZE` where they are whole photos.
        upscale: enlargement of whole photos.
        weight: of `lafr.restorer.LAFRer.enhance`; None for each method's usual.
        detector: one of `lafr.detectors.names()`.
        device: torch device, or auto.
        precision: one of `lafr.batching.PRECISIONS`.
        pictures: how pictures are embedded in the page.
    """

    inputs: Mapping[Path, str]
    methods: Sequence[Method]
    out: Path
    reference: Path | None
    metrics: Sequence[str] | None
    aligned: bool
    size: int | None
    upscale: float
    weight: float | None
    detector: str
    device: str
    precision: str
    pictures: Pictures

    @classmethod
    def of_faces(
        cls, lq: Path, gt: Path | None, out: Path, methods: Sequence[Method], metrics: Sequence[str], device: str
    ) -> Request:
        """A folder of FFHQ-aligned faces, as the paper's tables compare them: against ``gt``, all else as usual."""
        return cls(
            inputs={path: path.stem for path in list_images(lq)},
            methods=methods,
            out=out,
            reference=gt,
            metrics=metrics,
            aligned=True,
            size=None,
            upscale=1,
            weight=None,
            detector="auto",
            device=device,
            precision="fp32",
            pictures=Pictures(85),
        )


def compare(request: Request, bar: Bar) -> dict[str, Any]:
    """Run the comparison, or what of it is not there yet, and write the report; return it.

    Files: report.json, table.md, table.csv, faces.csv and index.html in the folder, results as `Store` says.

    Raises:
        ValueError: a metric, a detector or a device is unknown.
        ImageError: the references cannot be matched, or a file cannot be written.
        lafr_base.weights.WeightsError: the detector's weights are missing.
    """
    device = str(pick_device(request.device))
    suite = Suite(request.metrics, device, request.reference is not None)
    store = Store(request.out)
    items, detector = _read(request, store, device, bar)
    notes = []
    if request.reference is not None:
        missing = match_references([item for item in items if item.error is None], request.reference)
        if missing:
            notes.append(f"no reference of the same name for {_some(missing)}")
    settings = Settings(
        aligned=request.aligned,
        size=request.size or _side(request, items),
        upscale=request.upscale,
        weight=request.weight,
        detector=detector,
        device=device,
        precision=request.precision,
    )
    faceless = [item.path.name for item in items if item.error is None and not item.faces]
    if faceless:
        notes.append(f"no face was found in {_some(faceless)}")
    usable = [item for item in items if item.error is None and item.faces]
    lq, _ = _own_faces(LQ, usable, settings, store)
    hq, faults = _own_faces(HQ, usable, settings, store)
    notes += faults
    for method in request.methods:
        with bar(method.name, len(usable)) as step:
            run_method(method, usable, settings, store, step)
    measurer = Measurer(suite, store, hq)
    records = {LQ: lq, **{method.name: method.records for method in request.methods}, **({HQ: hq} if hq else {})}
    with bar("measuring", len(records) * len(usable)) as step:
        values = {name: measurer.measure(name, usable, of, step) for name, of in records.items()}
    report = build_report(items, request.methods, values, suite, settings, notes)
    write_json(request.out / "report.json", report)
    write_text(request.out / "table.md", tables.markdown(report))
    write_text(request.out / "table.csv", tables.summary_csv(report))
    write_text(request.out / "faces.csv", tables.faces_csv(report))
    with bar("page", len(usable)) as step:
        write_page(request.out / "index.html", report, usable, records, store, request.pictures, step)
    return report


def _read(request: Request, store: Store, device: str, bar: Bar) -> tuple[list[Input], str]:
    """Read all inputs and find their faces; return them and the detector's name."""
    detector = None if request.aligned else build_detector(request.detector, device)
    items = []
    with bar("reading", len(request.inputs)) as step:
        for path, name in request.inputs.items():
            item, pixels = read_input(name, path, request.aligned)
            if detector is not None and pixels is not None:
                find_faces(item, pixels, detector, store.cache / "faces" / f"{name}.json")
            items.append(item)
            step()
    return items, "" if detector is None else detector.name


def _side(request: Request, items: Sequence[Input]) -> int:
    if not request.aligned:
        return FACE_SIZE
    references = [item.reference for item in items if item.reference is not None]
    if not references:
        return common_side(item.width for item in items if item.error is None)
    sides = []
    for path in references:
        try:
            sides.append(read_image(path).bgr.shape[0])
        except ImageError as error:  # said again, where the reference is used
            logger.debug("%s", error)
    return common_side(sides)


def _own_faces(
    name: str, items: Sequence[Input], settings: Settings, store: Store
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Cut the faces out of the inputs (``lq``) or the references (``hq``); return records, and what went wrong."""
    records, faults = {}, []
    for item in items:
        path = item.path if name == LQ else item.reference
        if path is None:
            continue
        try:
            key = digest([__version__, settings.aligned, settings.size, item.digest, item.faces], path)
            record = store.record(name, item, key)
            if record is None:
                store.forget(name, item)
                image = to_uint8(read_image(path).bgr)
                record = store.save(name, item, key, _cut(image, path, item, settings))
            records[item.name] = record
        except (ValueError, OSError) as error:
            faults.append(str(error))
    return records, faults


def _cut(image: np.ndarray, path: Path, item: Input, settings: Settings) -> list[np.ndarray]:
    try:
        return cut_faces(image, item, settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
