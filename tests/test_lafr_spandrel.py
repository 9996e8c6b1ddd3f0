"""Programs that load models by spandrel load LAFR's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import spandrel
import torch

import lafr.spandrel
from lafr.methods import MODELS
from lafr_arch.lafr_arch import LAFRNet


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with a registry without LAFR."""
    monkeypatch.setattr(lafr.spandrel, "MAIN_REGISTRY", registry := spandrel.MAIN_REGISTRY.copy())
    monkeypatch.setattr(spandrel.ModelLoader.__init__, "__defaults__", (None, registry))


def test_mini_by_the_model_loader(face_image: torch.Tensor) -> None:
    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader().load_from_file(lafr.spandrel.MINI)
    lafr.spandrel.install()
    lafr.spandrel.install()
    model = spandrel.ModelLoader().load_from_file(lafr.spandrel.MINI)
    own = LAFRNet.from_pretrained(MODELS["mini"])
    size = own.image_size
    assert isinstance(model, spandrel.ImageModelDescriptor)
    assert (model.architecture.id, model.purpose, model.scale) == ("LAFR", "FaceSR", 1)
    assert (model.size_requirements.minimum, model.tags) == (size, [f"{size}px"])
    face = torch.nn.functional.interpolate(face_image, size=(size, size), mode="bilinear")
    with torch.inference_mode():
        assert (model(face) == own(face).clamp(0, 1)).all()


def test_others_are_told_from_lafr() -> None:
    lafr.spandrel.install()
    arch = lafr.spandrel.MAIN_REGISTRY["LAFR"].architecture
    assert not arch.detect({"encoder.weight": torch.zeros(1)})
    assert not arch.detect({"vae.a": torch.zeros(1), "unet.b": torch.zeros(1)})
    assert arch.detect({"vae.a": 0, "unet.b": 0, "alignment.c": 0})
    with pytest.raises(spandrel.UnsupportedModelError, match=r"pass the folder .* to lafr\.spandrel\.install"):
        arch.load({"vae.a": torch.zeros(1), "unet.b": torch.zeros(1), "alignment.c": torch.zeros(1)})


def test_a_folder_makes_its_network_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json of a deployed LAFR network"):
        lafr.spandrel.install(tmp_path)
    shutil.copy(MODELS["mini"] / "config.json", tmp_path)
    lafr.spandrel.install(tmp_path)
    lafr.spandrel.install(tmp_path)
    assert lafr.spandrel.MAIN_REGISTRY["LAFR"].architecture.folders == (MODELS["mini"], tmp_path)
