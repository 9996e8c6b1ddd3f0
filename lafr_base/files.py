"""Files written whole or not at all, and digests that tell whether anything changed."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


def digest(*parts: Any) -> str:
    """Return a digest of bytes, files' contents (Path) and anything that JSON can hold."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        inner = hashlib.blake2b(digest_size=16)
        if isinstance(part, Path):
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    inner.update(block)
        elif isinstance(part, bytes):
            inner.update(part)
        else:
            inner.update(json.dumps(part, sort_keys=True).encode())
        total.update(inner.digest())
    return total.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Return a mapping from a JSON file; an empty one where there is none or it is damaged."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:32]}_{uuid.uuid4().hex}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def share(folder: Path) -> None:
    """Give every file below a folder the mode that a new file gets; safetensors lets its owner alone read one."""
    probe = folder / f".{uuid.uuid4().hex}"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
