"""What a base model's folder says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lafr_base.compat  # noqa: F401 - BasicSR can be imported only after it
from lafr_arch.base_configs import has_text_encoder


@pytest.mark.parametrize(
    ("index", "folder", "expected"),
    [
        (None, True, True),
        (None, False, False),
        ({"text_encoder": ["transformers", "CLIPTextModel"]}, True, True),
        ({"text_encoder": [None, None]}, True, False),
        ({"text_encoder": None}, True, False),
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, True, True),  # the index does not say: the folder does
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, False, False),
    ],
)
def test_text_encoder(tmp_path: Path, index: dict[str, Any] | None, folder: bool, expected: bool):
    if folder:
        (tmp_path / "text_encoder").mkdir()
    if index is not None:
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert has_text_encoder(tmp_path) is expected


def test_a_damaged_index_is_named(tmp_path: Path):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"base_model: .*model_index\.json"):
        has_text_encoder(tmp_path)
