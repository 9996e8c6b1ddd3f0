"""One 512 x 512 face through LAFRNet at Stable Diffusion 2.1's full width with random weights, on a CPU.

Plain fp32 against channels_last, against a bf16 decoder (the only part whose rounding is harmless at timestep 999) and
against bf16 throughout, in one run:  python benchmarks/full_size.py --repeat 1
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

import lafr

lafr.register()

from lafr_arch.base_configs import KNOWN  # noqa: E402 - after BasicSR can be imported
from lafr_arch.lafr_arch import LAFRNet  # noqa: E402
from lafr_arch.static_unet import StaticUNet  # noqa: E402


@torch.no_grad()
def random_net() -> LAFRNet:
    """The deployed form of lafr_unet.yml's network, its weights drawn so that activations keep their scale."""
    configs = KNOWN["sd21-base"]
    vae_config = {k: v for k, v in configs.vae.items() if k != "_class_name"}
    net = LAFRNet.__new__(LAFRNet)
    nn.Module.__init__(net)
    with torch.device("meta"):
        net._set(
            vae=AutoencoderKL.from_config(vae_config),
            unet=StaticUNet(UNet2DConditionModel.from_config(configs.unet), configs.n_tokens),
            alignment={"type": "LatentAlignmentAdapter"},
            prediction_type="epsilon",
            alpha_cumprod=0.5,  # set below, outside the meta device
            image_size=512,
        )
    net.alpha_cumprod = float(DDPMScheduler(**configs.scheduler).alphas_cumprod[999])
    net = net.to_empty(device="cpu")
    torch.manual_seed(0)
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        if value.dim() > 1:
            value.normal_(std=1 / math.sqrt(value[0].numel()))
        else:
            value.fill_(1.0 if name.endswith(("norm.weight", "scale")) or "norm" in name and "weight" in name else 0.0)
    return net.eval().requires_grad_(False)


@torch.inference_mode()
def measure(net: LAFRNet, image: Tensor, repeat: int) -> tuple[float, Tensor]:
    """Best seconds of ``repeat`` runs, and the output."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        output = net(image)
        seconds.append(time.perf_counter() - start)
    return min(seconds), output.float()


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    net, image = random_net(), torch.rand(1, 3, 512, 512)
    times: dict[str, float] = {}
    differences: dict[str, float] = {}
    times["fp32"], expected = measure(net, image, args.repeat)
    image = image.contiguous(memory_format=torch.channels_last)
    net.to(memory_format=torch.channels_last)
    for name in ("channels_last", "channels_last, bf16 decoder", "channels_last, all bf16"):
        if "bf16 decoder" in name:
            net.decoder_dtype = torch.bfloat16
            net.vae.decoder.bfloat16()
            net.vae.post_quant_conv.bfloat16()
        elif "all bf16" in name:
            net.bfloat16()
            image = image.bfloat16()
        times[name], output = measure(net, image, args.repeat)
        differences[name] = float((output - expected).abs().mean())
    report = {
        "threads": torch.get_num_threads(),
        "seconds": times,
        "ratio_to_fp32": {name: seconds / times["fp32"] for name, seconds in times.items()},
        "mean_difference_from_fp32": differences,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
