"""The report as one HTML file: pictures, styles and script are in it, and it asks nothing of any other address."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
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
        report: what `lafr_studies.comparison.report.build_report` returned.
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
    script, style = _web("page.js") + _web("viewer.js"), _web("page.css")
    holders = [
        f'<script type="application/json" id="pictures-{number}">{_json(encoded.get(row["id"], {}))}</script>'
        for number, row in enumerate(report["faces"])
    ]
    size = f"{side} x {side} px" if side == report["protocol"]["size"] else f"shrunk to {side} x {side} px"
    parts = {
        "title": html.escape(f"Comparison of {count_faces(report)} faces"),
        "subtitle": html.escape(_subtitle(report)),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "summary": _summary(report),
        "details": _details(report),
        "footer": html.escape(
            f"LAFR {report['lafr']}. Pictures here are WebP of quality {pictures.quality}, {size}; what was measured "
            "lies beside this file as PNG, in the folder faces of each method's folder."
        ),
        "data": _json(_data(report, encoded)),
        "pictures": "\n".join(holders),
    }
    # One pass: what is put in may itself contain braces.
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _web("page.html")))


def _web(name: str) -> str:
    return (resources.files("lafr_studies.comparison") / "web" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy names an inline script or style by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> str:
    """Return JSON that no name in it can end the script element of."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


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


def _summary(report: Mapping[str, Any]) -> str:
    heads = ["<th scope='col'>method<small>faces</small></th>"]
    for about in report["metrics"].values():
        arrow, word = ("↑", "higher") if about["better"] == "higher" else ("↓", "lower")
        title = html.escape(f"{about['variant']}; {word} is better")
        heads.append(f"<th scope='col' title='{title}'>{html.escape(about['title'])} {arrow}</th>")
    heads += ["<th scope='col'>s per face</th>", "<th scope='col'>parameters</th>", "<th scope='col'>peak memory</th>"]
    best = {name: _best(report, name) for name in report["metrics"]}
    rows = []
    for column in report["columns"]:
        own = " class='own'" if column["name"] in _OWN else ""
        head = f"<th scope='row'>{html.escape(column['title'])}<small>{_count(column)}</small></th>"
        if column.get("unavailable"):
            span = len(report["metrics"]) + 3
            cells = f"<td class='reason' colspan='{span}'>not run: {html.escape(column['unavailable'])}</td>"
        else:
            cells = "".join(_cell(report, column, name, best[name]) for name in report["metrics"]) + _costs(column)
        rows.append(f"<tr{own}>{head}{cells}</tr>")
    first = html.escape(report["first"])
    note = (
        f"Mean, 95 % interval, and the paired difference from {first} with its interval (coloured where it excludes 0)."
    )
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='Means of all methods'><table>"
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<p class='soft'>{note}</p>"
    )


def _count(column: Mapping[str, Any]) -> str:
    failed = f", {column['failed']} failed" if column.get("failed") else ""
    return f"{column['faces']}{failed}"


def _cell(report: Mapping[str, Any], column: Mapping[str, Any], metric: str, best: float | None) -> str:
    decimals = _digits(report, metric)
    found = column["summary"].get(metric)
    mean = column["set"].get(metric) if found is None else found["mean"]
    if mean is None:
        text = "all infinite" if found and found["left_out"] else "–"
        return f"<td>{text}</td>"
    lines = [f"<b>{_number(mean, decimals)}</b>"]
    if found is not None:
        lines.append(f"<small>[{_number(found['low'], decimals)}, {_number(found['high'], decimals)}]</small>")
        if found["left_out"]:
            lines.append(f"<small>{found['left_out']} infinite left out</small>")
    change = column.get("difference", {}).get(metric)
    if change is not None and change["mean"] is not None:
        higher = report["metrics"][metric]["better"] == "higher"
        sign = 1 if change["low"] > 0 else -1 if change["high"] < 0 else 0
        kind = "" if not sign else " class='better'" if (sign > 0) == higher else " class='worse'"
        low, high = (_number(change[key], decimals, "+") for key in ("low", "high"))
        lines.append(f"<small{kind}>{_number(change['mean'], decimals, '+')} [{low}, {high}]</small>")
    return f"<td{' class=best' if mean == best else ''}>{''.join(lines)}</td>"


def _costs(column: Mapping[str, Any]) -> str:
    seconds, parameters = column.get("seconds"), column.get("parameters")
    gpu, peak = column.get("gpu_mib"), column.get("peak_mib")
    memory = "–" if peak is None else f"{peak:,.0f} MiB<small>{column['idle_mib'] or 0:,.0f} idle</small>"
    if gpu is not None:
        memory = f"{gpu:,.0f} MiB<small>GPU</small>"
    return (
        f"<td>{'–' if seconds is None else duration(seconds['median'])}</td>"
        f"<td>{'–' if parameters is None else format(parameters, ',')}</td><td>{memory}</td>"
    )


def _details(report: Mapping[str, Any]) -> str:
    notes = [*report["notes"], *faults(report)]
    missing = [f"{name}: {text}" for name, text in report["missing"].items()]
    protocol = {key: value for key, value in report["protocol"].items() if key != "versions"}
    protocol["versions"] = ", ".join(f"{k} {v}" for k, v in report["protocol"]["versions"].items())
    protocol |= {about["title"]: f"{about['variant']} ({about['library']})" for about in report["metrics"].values()}
    terms = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in protocol.items())
    return (
        _list("Notes and failures", notes, is_open=bool(notes))
        + _list("Metrics that are missing", missing)
        + f"<details class='about'><summary>How it was measured</summary><dl>{terms}</dl></details>"
    )


def _list(title: str, lines: Sequence[str], is_open: bool = False) -> str:
    if not lines:
        return ""
    entries = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    attribute = " open" if is_open and len(lines) <= 10 else ""
    return f"<details class='about'{attribute}><summary>{title} ({len(lines)})</summary><ul>{entries}</ul></details>"


def _best(report: Mapping[str, Any], metric: str) -> float | None:
    return best_mean(report, means(report, metric), report["metrics"][metric]["better"])


def _digits(report: Mapping[str, Any], metric: str) -> int:
    return digits(means(report, metric))


def _number(value: float | str, decimals: int, sign: str = "") -> str:
    return value if isinstance(value, str) else f"{value:{sign},.{decimals}f}".replace("-", "−")
