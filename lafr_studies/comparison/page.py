"""The report as one HTML file: pictures, styles and script are in it, and it asks nothing of any other address."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from lafr_base.files import write_text
from lafr_base.images import read_image
from lafr_studies.comparison.inputs import Input, resize_face
from lafr_studies.comparison.store import HQ, LQ, Store
from lafr_studies.comparison.tables import best_mean, count_faces, digits, duration, faults, means

LARGEST = 1024
"""Side in pixels above which pictures are shrunk for the page."""

SORT_FIRST = ("lpips_alex", "lpips_vgg", "dists", "ssim", "niqe")
"""Metrics that the page is sorted by when it opens: the first of them that was measured."""

_OWN = (LQ, HQ)


@dataclass(frozen=True)
class Pictures:
    """How pictures are embedded.

    Attributes:
        quality: of WebP, 1 to 100.
    """

    quality: int


def write_page(
    path: Path,
    report: Mapping[str, Any],
    items: Sequence[Input],
    records: Mapping[str, Mapping[str, Any]],
    store: Store,
    pictures: Pictures,
    progress: Callable[[], None],
) -> None:
    """Write the page.

    Args:
        path: HTML file.
        report: what `lafr_studies.comparison.comparison_report.build_report` returned.
        items: inputs with results.
        records: of every column, by input: what the store has faces of.
        store: where they are.
        pictures: how they are embedded.
        progress: called once an input.

    Raises:
        lafr_base.images.ImageError: a face cannot be read.
        OSError: the file cannot be written.
    """
    side = min(report["protocol"]["size"], LARGEST)
    order = [column["name"] for column in report["columns"]]
    encoded: dict[str, dict[str, str]] = {}
    for item in items:
        for index, name in enumerate(item.face_names()):
            done = [column for column in order if item.name in records.get(column, {})]
            faces = {column: read_image(store.face_paths(column, item)[index]).bgr for column in done}
            encoded[name] = {column: _webp(resize_face(face, side), pictures.quality) for column, face in faces.items()}
        progress()
    environment = Environment(
        loader=PackageLoader("lafr_studies.comparison", "web"), autoescape=True, undefined=StrictUndefined
    )
    script, style = _web("page.js") + _web("viewer.js"), _web("page.css")
    size = f"{side} x {side} px" if side == report["protocol"]["size"] else f"shrunk to {side} x {side} px"
    protocol = {key: value for key, value in report["protocol"].items() if key != "versions"}
    protocol["versions"] = ", ".join(f"{k} {v}" for k, v in report["protocol"]["versions"].items())
    protocol |= {about["title"]: f"{about['variant']} ({about['library']})" for about in report["metrics"].values()}
    html = environment.get_template("page.html").render(
        title=f"Comparison of {count_faces(report)} faces",
        subtitle=_subtitle(report),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        metrics=list(report["metrics"].values()),
        rows=[_row(report, column) for column in report["columns"]],
        first=report["first"],
        notes=[*report["notes"], *faults(report)],
        missing=[f"{name}: {text}" for name, text in report["missing"].items()],
        protocol=protocol,
        footer=f"LAFR {report['lafr']}. Pictures here are WebP of quality {pictures.quality}, {size}; what was "
        "measured lies beside this file as PNG, in the folder faces of each method's folder.",
        data=_json(_data(report, encoded)),
        pictures=[_json(encoded.get(row["id"], {})) for row in report["faces"]],
    )
    write_text(path, html)


def _web(name: str) -> Markup:
    return Markup((resources.files("lafr_studies.comparison") / "web" / name).read_text("utf-8"))


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy names an inline script or style by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """Return JSON that no name in it can end the script element of."""
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def _webp(image: np.ndarray, quality: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(buffer, "WEBP", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()


def _data(report: Mapping[str, Any], encoded: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return what the script needs of the report."""
    metrics = [
        {"name": name, "digits": _digits(report, name), **{key: about[key] for key in ("title", "better", "kind")}}
        for name, about in report["metrics"].items()
    ]
    images = [metric["name"] for metric in metrics if metric["kind"] == "image"]
    keys = ("id", "input", "error", "index", "of", "values", "seconds", "errors", "metric_errors")
    columns = [
        {"name": column["name"], "title": column["title"], "unavailable": column.get("unavailable")}
        for column in report["columns"]
    ]
    faces = [{key: row[key] for key in keys} for row in report["faces"]]
    for face in faces:
        face["columns"] = list(encoded.get(face["id"], {}))
    return {
        "first": report["first"],
        "size": report["protocol"]["size"],
        "sort": next((name for name in (*SORT_FIRST, *images) if name in images), "name"),
        "metrics": metrics,
        "columns": columns,
        "faces": [
            {**{k: row[k] for k in keys}, "columns": list(encoded.get(row["id"], {}))} for row in report["faces"]
        ],
    }


def _subtitle(report: Mapping[str, Any]) -> str:
    protocol = report["protocol"]
    names = [column["title"] for column in report["columns"] if column["name"] not in _OWN]
    kind = "aligned faces" if protocol["aligned"] else f"photos, faces found by {protocol['detector']}"
    return f"{', '.join(names)}. {kind.capitalize()}, measured at {protocol['size']} x {protocol['size']} px."


def _row(report: Mapping[str, Any], column: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table says of a method."""
    failed = f", {column['failed']} failed" if column.get("failed") else ""
    row = {"title": column["title"], "own": column["name"] in _OWN, "count": f"{column['faces']}{failed}"}
    if column.get("unavailable"):
        return {**row, "unavailable": column["unavailable"], "cells": [], "costs": []}
    cells = [_cell(report, column, name) for name in report["metrics"]]
    return {**row, "unavailable": None, "cells": cells, "costs": _costs(column)}


def _cell(report: Mapping[str, Any], column: Mapping[str, Any], metric: str) -> dict[str, Any]:
    decimals = _digits(report, metric)
    found = column["summary"].get(metric)
    mean = column["set"].get(metric) if found is None else found["mean"]
    cell: dict[str, Any] = {"best": False, "mean": None, "notes": [], "plain": ""}
    if mean is None:
        return {**cell, "plain": "all infinite" if found and found["left_out"] else "–"}
    cell |= {"best": mean == _best(report, metric), "mean": _number(mean, decimals)}
    if found is not None:
        cell["notes"].append({"text": f"[{_number(found['low'], decimals)}, {_number(found['high'], decimals)}]"})
        if found["left_out"]:
            cell["notes"].append({"text": f"{found['left_out']} infinite left out"})
    change = column.get("difference", {}).get(metric)
    if change is not None and change["mean"] is not None:
        higher = report["metrics"][metric]["better"] == "higher"
        sign = 1 if change["low"] > 0 else -1 if change["high"] < 0 else 0
        kind = "" if not sign else "better" if (sign > 0) == higher else "worse"
        mean, low, high = (_number(change[key], decimals, "+") for key in ("mean", "low", "high"))
        cell["notes"].append({"kind": kind, "text": f"{mean} [{low}, {high}]"})
    return cell


def _costs(column: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return seconds, parameters and memory, each with a note."""
    seconds, parameters = column.get("seconds"), column.get("parameters")
    gpu, peak = column.get("gpu_mib"), column.get("peak_mib")
    memory = ("–", "") if peak is None else (f"{peak:,.0f} MiB", f"{column['idle_mib'] or 0:,.0f} idle")
    if gpu is not None:
        memory = (f"{gpu:,.0f} MiB", "GPU")
    return [
        ("–" if seconds is None else duration(seconds["median"]), ""),
        ("–" if parameters is None else format(parameters, ","), ""),
        memory,
    ]


def _best(report: Mapping[str, Any], metric: str) -> float | None:
    return best_mean(report, means(report, metric), report["metrics"][metric]["better"])


def _digits(report: Mapping[str, Any], metric: str) -> int:
    return digits(means(report, metric))


def _number(value: float | str, decimals: int, sign: str = "") -> str:
    return value if isinstance(value, str) else f"{value:{sign},.{decimals}f}".replace("-", "−")
