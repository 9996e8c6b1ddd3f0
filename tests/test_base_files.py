"""Files that are written whole, and who may read them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from lafr_base.files import share


def test_others_may_read_what_they_may_read_elsewhere(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    weights = tmp_path / "inner/model.safetensors"
    save_file({"a": torch.ones(1)}, weights)
    weights.chmod(0o600)
    share(tmp_path)
    other = tmp_path / "other"
    other.touch()
    assert weights.stat().st_mode == other.stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner", "other"]
