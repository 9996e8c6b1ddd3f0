"""docs/options.md, made from the declarations that option files are checked against."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY

from lafr_base.option_keys import Key, describe
from lafr_base.option_map import LOADER
from lafr_models import launcher_keys, option_paths
from lafr_models.stage_keys import StageKeys

_HEAD = """# Options

Every key an option file may have, but for the arguments of networks, losses and metrics, which are those of their
classes. A key that is not here, or a value of another kind, ends a run before it starts, with the nearest known key
named; so does all else that can be known then: missing weights and images, arguments that do not fit, broken images.
`--force_yml KEY:KEY=VALUE` overrides any value.

Made by `lafr options --out docs/options.md`.
"""


def reference() -> str:
    """The page, in Markdown; the plugin must be registered."""
    sections = [
        ("Top level", launcher_keys.TOP, "Networks are named with the stages below."),
        (
            "`path:`",
            [*launcher_keys.PATH, *launcher_keys.OF_NETWORK],
            "The star is what follows `network_` in a network's key: `pretrain_network_g`, `strict_load_g`.",
        ),
        ("`datasets:`, every set", LOADER, "The options of each class of set are listed below."),
        ("`val:`", launcher_keys.VAL, ""),
        ("`logger:`", launcher_keys.LOGGER, ""),
        ("`dist_params:`", launcher_keys.DIST, ""),
        ("`train:`, every stage", [*launcher_keys.TRAIN, *_common()], ""),
    ]
    parts = [_HEAD, "## Paths\n\n" + _paragraphs(inspect.getdoc(option_paths) or "", first=1)]
    parts += [f"## {title}\n" + (f"\n{note}\n" if note else "") + "\n" + _table(keys) for title, keys, note in sections]
    parts += [_stage(name, stage) for name, stage in sorted(_stages().items())]
    parts += [_dataset(name, kind) for name, kind in sorted(_own(DATASET_REGISTRY, "lafr_data."))]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _stages() -> dict[str, type[StageKeys]]:
    return {n: kind for n, kind in _own(MODEL_REGISTRY, "lafr_models.") if issubclass(kind, StageKeys)}


def _own(registry: Any, package: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name, kind in registry if kind.__module__.startswith(package)]


def _common() -> list[Key]:
    """Keys that every stage has."""
    listed = [stage.keys("TRAIN_KEYS") for stage in _stages().values()]
    return [key for key in listed[0] if all(key in other for other in listed)]


def _stage(name: str, stage: type[StageKeys]) -> str:
    common = _common()
    parts = [f"## Stage {name}\n\n{_summary(stage)}\n"]
    parts.append("\n" + _table(stage.keys("NETWORKS"), "network"))
    for title, keys in (("train:", stage.keys("TRAIN_KEYS")), ("val:", stage.keys("VAL_KEYS"))):
        own = [key for key in keys if key not in common]
        if own:
            parts.append("\n" + _table(own, f"`{title}`"))
    return "".join(parts)


def _dataset(name: str, kind: type) -> str:
    return f"## Dataset {name}\n\n{_summary(kind)}\n\n| option | meaning |\n| --- | --- |\n" + "".join(
        f"| {option} | {_cell(text)} |\n" for option, text in documented(kind, "Options")
    )


def documented(kind: type, section: str) -> list[tuple[str, str]]:
    """The entries of a section of a class's docstring, names and texts."""
    doc = inspect.getdoc(kind) or ""
    block = re.search(rf"^{section}:\n((?:    .*\n?|\n)+)", doc, re.MULTILINE)
    if block is None:
        return []
    entries: list[list[str]] = []
    for line in block[1].splitlines():
        if re.match(r"    \S", line):
            entries.append([line.strip()])
        elif entries and line.strip():
            entries[-1].append(line.strip())
    pairs = (" ".join(entry).partition(": ") for entry in entries)
    return [(name, text) for name, _, text in pairs]


def _summary(kind: type) -> str:
    return _markdown((inspect.getdoc(kind) or "").partition("\n\n")[0]).replace("\n", " ")


def _paragraphs(text: str, first: int) -> str:
    return _markdown("\n\n".join(text.split("\n\n")[first:])) + "\n"


def _table(keys: Iterable[Key], title: str = "key") -> str:
    rows = [(key.name, describe(key.kind), _default(key), key.about) for key in keys]
    head: Sequence[tuple[str, ...]] = [(title, "is", "default", "meaning"), ("---",) * 4]
    return "".join("| " + " | ".join(_cell(cell) for cell in row) + " |\n" for row in [*head, *rows])


def _default(key: Key) -> str:
    if key.required:
        return "required"
    if key.default is None:
        return ""
    return str(key.default).lower() if isinstance(key.default, bool) else str(key.default)


def _cell(text: str) -> str:
    return _markdown(text).replace("|", "\\|")


def _markdown(text: str) -> str:
    """A docstring's marks as Markdown's."""
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text).replace("``", "`")
