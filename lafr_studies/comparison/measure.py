"""Measure the faces of a comparison, keeping the values: a face that did not change is not measured again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lafr_base.files import digest, read_json, write_json
from lafr_base.images import read_image
from lafr_metrics.suite import METRICS, MetricError, Suite, protocol
from lafr_studies.comparison.inputs import Input
from lafr_studies.comparison.store import HQ, Store

Records = Mapping[str, Mapping[str, Any]]


@dataclass
class Values:
    """What was measured of one method.

    Attributes:
        faces: value of each image metric, by face; PSNR of equal images is infinite.
        errors: why a metric cannot be had of a face, by face and metric.
        set_values: value of each set metric.
        set_errors: why a set metric cannot be had.
    """

    faces: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)
    set_values: dict[str, float] = field(default_factory=dict)
    set_errors: dict[str, str] = field(default_factory=dict)


class Measurer:
    """Measures methods by one suite.

    Args:
        suite: the metrics.
        store: where faces and values are.
        references: records of the reference faces, by input.
    """

    def __init__(self, suite: Suite, store: Store, references: Records) -> None:
        self.suite = suite
        self.store = store
        self.references = references
        self._image = [name for name in suite.names if METRICS[name].kind == "image"]
        self._set = [name for name in suite.names if METRICS[name].kind == "set"]
        self._key = digest(protocol(suite.names))

    def measure(self, method: str, items: Sequence[Input], records: Records, progress: Callable[[], None]) -> Values:
        """Measure all faces a method has a record of.

        Args:
            method: its name, or ``lq`` or ``hq``.
            items: the inputs.
            records: what the store holds of the method, by input.
            progress: called once an input.

        Returns:
            The values; a face without a reference lacks those that compare with one, as do all faces of ``hq``.
        """
        values = Values()
        for item in items:
            if item.name in records:
                self._measure_input(method, item, records[item.name], values)
            progress()
        if self._set and records:
            self._measure_set(method, items, records, values)
        return values

    def _measure_input(self, method: str, item: Input, record: Mapping[str, Any], values: Values) -> None:
        reference = None if method == HQ else self.references.get(item.name)
        against = reference["digests"] if reference is not None else None
        path = self.store.cache / "metrics" / method / f"{item.name}.json"
        key = digest([self._key, record["digests"], against])
        known = read_json(path)
        if known.get("key") != key:
            faces = self._measure_faces(method, item, reference is not None)
            known = {"key": key, "faces": faces}
            if not any(face["failed"] for face in faces):  # what failed is tried again in the next run
                write_json(path, known)
        for name, face in zip(item.face_names(), known["faces"], strict=True):
            values.faces[name] = {metric: _read(value) for metric, value in face["values"].items()}
            if face["errors"]:
                values.errors[name] = face["errors"]

    def _measure_faces(self, method: str, item: Input, has_reference: bool) -> list[dict[str, Any]]:
        measured = []
        references = self.store.face_paths(HQ, item)
        for path, reference_path in zip(self.store.face_paths(method, item), references, strict=True):
            errors: dict[str, str] = {}
            found: dict[str, float] = {}
            reference = read_image(reference_path).bgr if has_reference else None
            failure: str | None = None
            try:
                found = self.suite.measure(read_image(path).bgr, reference, errors)
            except Exception as error:  # a net that fails costs that face's values, not the comparison
                failure = f"{type(error).__name__}: {error}"
                errors = dict.fromkeys(self._image, failure)
            if not has_reference:  # said once for all of them, not in every cell
                errors = {name: text for name, text in errors.items() if not METRICS[name].reference}
            values = {name: _write(value) for name, value in found.items()}
            measured.append({"values": values, "errors": errors, "failed": failure is not None})
        return measured

    def _measure_set(self, method: str, items: Sequence[Input], records: Records, values: Values) -> None:
        done = [item for item in items if item.name in records]
        with_reference = [] if method == HQ else [item for item in done if item.name in self.references]
        digests = [records[item.name]["digests"] for item in done]
        against = [self.references[item.name]["digests"] for item in with_reference]
        path = self.store.cache / "metrics" / f"{method}.json"
        key = digest([self._key, digests, against])
        known = read_json(path)
        if known.get("key") != key:
            errors: dict[str, str] = {}
            found: dict[str, float] = {}
            try:
                restored = self._paths(method, done)
                found = self.suite.measure_set(restored, self._paths(HQ, with_reference) or None, errors)
            except (MetricError, ValueError, RuntimeError) as error:
                errors = dict.fromkeys(self._set, str(error))
            known = {"key": key, "values": {k: _write(v) for k, v in found.items()}, "errors": errors}
            write_json(path, known)
        values.set_values = {metric: _read(value) for metric, value in known["values"].items()}
        unasked = () if with_reference else [name for name in self._set if METRICS[name].reference]
        values.set_errors = {metric: text for metric, text in known["errors"].items() if metric not in unasked}

    def _paths(self, method: str, items: Sequence[Input]) -> list[Path]:
        return [path for item in items for path in self.store.face_paths(method, item)]


def _write(value: float) -> float | str:
    """Return a value as JSON can hold it: infinite ones as text."""
    return float(value) if math.isfinite(value) else str(float(value))


def _read(value: float | str) -> float:
    return float(value)
