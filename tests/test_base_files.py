"""Files, digests, names and cells."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from lafr_base.files import csv_cell, digest, file_digest, shown, whole


@pytest.mark.parametrize("text", ["=1+1", "+1", "-cmd", "@x", "\tx", "\rx"])
def test_no_cell_is_a_formula(text: str):
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(f"x{text}") == f"x{text}"


def test_numbers_stay_numbers():
    assert csv_cell(-1.5) == -1.5
    assert csv_cell(None) is None


def test_digests_of_files(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    assert file_digest(tmp_path / "x") == hashlib.blake2b(b"abc" * 1_000_000, digest_size=16).hexdigest()
    assert digest(tmp_path / "x") == digest(b"abc" * 1_000_000)


def test_names_are_shown_as_one_line_of_text():
    name = os.fsdecode(b"caf\xe9 \x1b[2J\n") + "\u202egpj\u2028é.png"
    assert shown(name) == "caf\\xe9 \\x1b[2J\\x0a\\u202egpj\\u2028é.png"
    assert shown(Path("plain/photo.png")) == "plain/photo.png"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "new" / "x.txt"
    with whole(path) as part:
        part.write_text("one")
        assert not path.exists()
        assert part.name.startswith(".")
    assert path.read_text() == "one"

    def fail(error: type[BaseException]) -> None:
        with whole(path) as part:
            part.write_text("two")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    with whole(path, tmp_path / "elsewhere") as part:
        part.write_text("three")
        assert part.parent == tmp_path / "elsewhere"
    assert path.read_text() == "three"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
