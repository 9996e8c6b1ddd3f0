"""Write the network of an option file as one folder that needs neither the base model nor a text encoder.

Conditioning is folded into biases and constant keys and values, LoRA is merged. LAFRer, inference_lafr.py --model and
the option files' DeployedLAFRNet load the folder.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

HELP = "write an option file's network, trained and deployed, to a folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("option_file", metavar="OPTION_FILE", help="option file (YAML) of stage 2")
    parser.add_argument("folder", metavar="OUT_FOLDER", help="where to write; created where missing")
    parser.add_argument(
        "--weights",
        metavar="CHECKPOINT",
        help="net_g_*.pth of stage 2; by default the run's net_g_latest.pth, else path: pretrain_network_g",
    )
    parser.add_argument("--dtype", choices=["fp32", "fp16", "bf16"], default="fp32", help="of the stored weights")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx and compare it (needs lafr[onnx])")


def run(args: argparse.Namespace) -> int:
    """Build, load, write; return the exit status."""
    from lafr_models.options import OptionError, lafr_options

    opt = lafr_options(args.option_file)
    from lafr_arch.lafr_arch import LAFRNet
    from lafr_base.dtypes import DTYPES

    try:
        net = build(opt, args.weights)
    except ValueError as error:
        raise OptionError(f"option file {args.option_file}: {error}") from error
    net.save_pretrained(args.folder, DTYPES[args.dtype])
    print(f"{args.folder}: deployed network, {args.dtype}")
    if args.onnx:
        from lafr_arch.onnx_export import OnnxExportError, export_onnx

        path = Path(args.folder) / "model.onnx"
        try:
            difference = export_onnx(LAFRNet.from_pretrained(args.folder), path)
        except OnnxExportError as error:
            raise OptionError(str(error)) from error
        print(f"{path}: largest difference from torch {difference:.1e}")
    return 0


def build(opt: dict[str, Any], checkpoint: str | None) -> Any:
    """Return the trained LAFRNet of an option file, with its averaged parameters where the checkpoint has them.

    The checkpoint is the one given, else what the option file's run wrote last, else the one its run starts from.

    Raises:
        ValueError: the options or the checkpoint do not fit.
        FileNotFoundError: the checkpoint does not exist.
    """
    from lafr_arch.network_g_arch import build_lafr
    from lafr_models.ema import load_trained, trained_state
    from lafr_models.options import run_folder

    # Settings that only save work in training, at the price of rounding.
    network = {k: v for k, v in opt["network_g"].items() if k not in ("type", "decoder_dtype")}
    net = build_lafr(**network)
    if net.unet is None:
        raise ValueError("network_g: with_unet: false (stage 1) cannot be deployed; name the option file of stage 2")
    if net.alignment is not None:
        net.alignment.requires_grad_(False)
    latest = run_folder(opt) / "models" / "net_g_latest.pth"
    if checkpoint is None and latest.is_file():
        checkpoint = str(latest)
    checkpoint = checkpoint or (opt.get("path") or {}).get("pretrain_network_g")
    if checkpoint is not None:
        if not Path(checkpoint).expanduser().is_file():
            raise FileNotFoundError(f"checkpoint {checkpoint} does not exist; stage 2 writes models/net_g_*.pth")
        load_trained(net, Path(checkpoint).expanduser(), ("params_ema", "params"))
        logger.info("trained parameters from %s", checkpoint)
    elif trained_state(net):
        raise ValueError(
            f"nothing is trained yet: {latest} is not there; train, or give --weights or path: pretrain_network_g"
        )
    return net
