"""LAFRNet: encode, align, denoise, predict, decode: the whole restorer in one class (LAFR, figure 3).

The same class serves both training stages, validation, inference, export and the benchmarks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lafr_arch import deployed
from lafr_arch.decoder_arch import frozen_decoder
from lafr_arch.fidelity_arch import FidelityPath
from lafr_arch.lora import lora_layers, merge_lora
from lafr_arch.lora_strengths import LoraStrengths, has_semantic_lora
from lafr_arch.restoring import WEIGHT_MEANS
from lafr_arch.static_unet import FullUNet, StaticUNet
from lafr_base.model_folder import WEIGHTS_NAME

if TYPE_CHECKING:
    from lafr_arch.ip_adapter import IPAdapter


def predict_sample(latent: Tensor, prediction: Tensor, alpha_cumprod: float | Tensor, prediction_type: str) -> Tensor:
    """The clean latent of one denoising step, in closed form (DDPM; equals diffusers' DDPMScheduler.step).

    Args:
        latent: the UNet's input (B, C, h, w).
        prediction: the UNet's output, the same shape.
        alpha_cumprod: of the timestep, in (0, 1); or (B, 1, 1, 1), of each latent's own.
        prediction_type: ``epsilon``, ``v_prediction`` or ``sample``.

    Raises:
        ValueError: unknown prediction type.
    """
    signal, noise = alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5
    if prediction_type == "epsilon":
        return (latent - noise * prediction) / signal
    if prediction_type == "v_prediction":
        return signal * latent - noise * prediction
    if prediction_type == "sample":
        return prediction
    raise ValueError(f"prediction_type {prediction_type!r} is unknown; use epsilon, v_prediction or sample")


def _lower(x: Tensor, dtype: torch.dtype) -> Tensor:
    """For a part that runs in ``dtype``; one in fp32 takes what comes, fp64 included."""
    return x if dtype == torch.float32 else x.to(dtype)


def _raise(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Back to fp32 from a part that runs in ``dtype``."""
    return x if dtype == torch.float32 else x.float()


def trains(module: nn.Module | None) -> bool:
    """Whether any parameter of the module takes gradients."""
    return module is not None and any(parameter.requires_grad for parameter in module.parameters())


class LAFRNet(nn.Module):
    """One-step face restorer on a latent diffusion model: its parts, and the way of a face through them.

    :func:`lafr_arch.network_g_arch.build_lafr` makes one of a base model, as option files describe it;
    :meth:`from_pretrained` reads one from a deployed folder.

    Args:
        vae: diffusers' AutoencoderKL, or a class of the same interface (MiniAutoencoder). Without a decoder where
            ``decoder`` takes its place.
        unet: the UNet with its fixed prompt and timestep, pruned or full; None for none, as stage 1 may.
        alignment: LQ latents (B, C, h, w) to aligned ones; None for none.
        prediction_type: what the UNet predicts: ``epsilon``, ``v_prediction`` or ``sample``.
        alpha_cumprod: product of (1 - beta) up to the fixed timestep, in (0, 1).
        image_size: side of the faces in pixels.
        ip_adapter: conditions the UNet on the LQ face; None for none.
        fidelity: carries what the face still shows past the latent to the VAE's decoder; None for none.
        decoder: takes the place of the VAE's decoder; None for the VAE's own.
        configs: ``type`` and arguments of ``alignment`` and ``decoder``, arguments of ``fidelity``: what a deployed
            folder's config.json says of them.
        sample_latent: in training mode, sample the LQ latent from the VAE's posterior instead of taking its mean.
        weight_means: see :class:`lafr_arch.restoring.RestoringNetwork`; OSEDiff's is ``none``.
        half_precision: see there.
        strengths: of two LoRAs that are merged into the UNet; None for none.
    """

    own_kernels = True

    def __init__(
        self,
        vae: Any,
        unet: StaticUNet | FullUNet | None,
        alignment: nn.Module | None,
        *,
        prediction_type: str,
        alpha_cumprod: float,
        image_size: int,
        ip_adapter: IPAdapter | None = None,
        fidelity: FidelityPath | None = None,
        decoder: nn.Module | None = None,
        configs: Mapping[str, Mapping[str, Any]] | None = None,
        sample_latent: bool = False,
        weight_means: str = "tones",
        half_precision: bool = True,
        strengths: LoraStrengths | None = None,
    ) -> None:
        super().__init__()
        if weight_means not in WEIGHT_MEANS:
            raise ValueError(f"weight_means: {weight_means} is unknown; use {', '.join(WEIGHT_MEANS)}")
        self.vae: Any = vae
        self.unet: Any = unet
        self.alignment = alignment
        self.ip_adapter = ip_adapter
        self.fidelity = fidelity
        self.decoder = decoder
        self.strengths = strengths
        if decoder is not None:
            self.vae.decoder = self.vae.post_quant_conv = None
        self.configs = {name: dict(config) for name, config in (configs or {}).items()}
        self.prediction_type = prediction_type
        self.alpha_cumprod = alpha_cumprod
        self.image_size = image_size
        self.sample_latent = sample_latent
        self.weight_means = weight_means
        self.half_precision = half_precision
        self.dtype = self.decoder_dtype = torch.float32
        # What a copy made by for_inference runs for each block and convolution.
        self.inference_plan: dict[str, str] = {}

    def set_decoder(self, decoder: Mapping[str, Any], weights: str | None = None) -> None:
        """Decode by another network from now on; the VAE loses its decoder.

        Args:
            decoder: its ``type`` (SmallDecoder or TAESDDecoder) and arguments.
            weights: as :func:`lafr_arch.decoder_arch.load_decoder` takes them; None for random ones.
        """
        self.decoder = frozen_decoder(decoder, self.vae.config, weights)
        self.configs["decoder"] = dict(decoder)
        self.vae.decoder = self.vae.post_quant_conv = None

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Run the VAE and the UNet in ``dtype``; the alignment, the step and what passes between parts stay in fp32."""
        self.dtype = dtype
        for part in (self.vae.encoder, getattr(self.vae, "quant_conv", None), self.unet):
            if part is not None:
                part.to(dtype)
        self.set_decoder_dtype(dtype)

    def set_decoder_dtype(self, dtype: torch.dtype) -> None:
        """Run the decoder in ``dtype``; the other parts stay as they are."""
        self.decoder_dtype = dtype
        for part in (self.decoder, self.fidelity, self.vae.decoder, getattr(self.vae, "post_quant_conv", None)):
            if part is not None:
                part.to(dtype)

    # ---- the five steps -------------------------------------------------------------------------------------------

    def encode(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1] -> scaled latents (B, C, H / 8, W / 8)."""
        posterior = self.vae.encode(_lower(2 * image - 1, self.dtype)).latent_dist
        latent = posterior.sample() if self.training and self.sample_latent else posterior.mean
        return _raise(latent, self.dtype) * self.vae.config.scaling_factor

    def encode_with_maps(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As :meth:`encode`, and the encoder's maps for the FidelityPath; none where there is no such path."""
        if self.fidelity is None:
            return self.encode(image), []
        posterior, maps = self.vae.encode_with_maps(_lower(2 * image - 1, self.dtype))
        latent = posterior.sample() if self.training and self.sample_latent else posterior.mean
        return _raise(latent, self.dtype) * self.vae.config.scaling_factor, maps

    def align(self, latent: Tensor) -> Tensor:
        """LQ latents -> aligned latents of the same shape; the input itself where there is no alignment module."""
        return latent if self.alignment is None else self.alignment(latent)

    def denoise(self, latent: Tensor, lq: Tensor | None = None) -> Tensor:
        """Aligned latents -> restored latents: one UNet call and the closed-form step; no noise is added.

        An IP-Adapter needs the LQ faces, too. Without a UNet, the input itself.
        """
        if self.unet is None:
            return latent
        if self.ip_adapter is not None and lq is None:
            raise ValueError("denoise: the LQ faces are missing, on which the IP-Adapter conditions")
        tokens = None if self.ip_adapter is None else _lower(self.ip_adapter(lq), self.dtype)
        prediction = _raise(self.unet(_lower(latent, self.dtype), tokens), self.dtype)
        return predict_sample(latent, prediction, self.alpha_cumprod, self.prediction_type)

    def decode(self, latent: Tensor, maps: Sequence[Tensor] = ()) -> Tensor:
        """Scaled latents -> images (B, 3, 8h, 8w) RGB, nominally in [0, 1], not clamped.

        ``maps``: of the LQ faces, by :meth:`encode_with_maps`; without them the fidelity path, if any, stands idle.
        """
        latent = _lower(latent / self.vae.config.scaling_factor, self.decoder_dtype)
        if self.decoder is not None:
            image: Tensor = self.decoder(latent)
        elif self.fidelity is not None and maps:
            path, lowered = self.fidelity, [x.to(latent.dtype) for x in maps]
            image = self.vae.decode(latent, fuse=lambda index, x: path(index, lowered[index], x)).sample
        else:
            image = self.vae.decode(latent).sample
        return (_raise(image, self.decoder_dtype) + 1) / 2

    def forward(self, lq: Tensor, output: str = "image", latent: Tensor | None = None) -> Tensor:
        """Restore faces.

        Args:
            lq: (B, 3, H, W) RGB in [0, 1]; trained for H = W = ``image_size``.
            output: how far to go: ``aligned`` or ``restored`` latents, or the ``image``.
            latent: what ``encode`` gives for ``lq``, where it is at hand; for an ``image`` it is of use only
                where there is no fidelity path.

        Returns:
            The image has the shape of ``lq`` and is clamped to [0, 1] in eval mode. In training mode it is not clamped,
            since the clamp's gradient is zero where a pixel is furthest off.
        """
        maps: list[Tensor] = []
        if latent is None or (self.fidelity is not None and output == "image"):
            with torch.set_grad_enabled(torch.is_grad_enabled() and trains(self.vae.encoder)):
                latent, maps = self.encode_with_maps(lq)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (latent.requires_grad or trains(self.alignment))):
            latent = self.align(latent)
        if output == "aligned":
            return latent
        latent = self.denoise(latent, lq)
        if output == "restored":
            return latent
        image = self.decode(latent, maps)
        return image if self.training else image.clamp(0, 1)

    # ---- deployment -----------------------------------------------------------------------------------------------

    @property
    def is_deployed(self) -> bool:
        """Whether :meth:`deploy` has nothing left to do but eval mode."""
        return isinstance(self.unet, StaticUNet) and not lora_layers(self.unet) and not lora_layers(self.vae)

    def deploy(self) -> LAFRNet:
        """Merge the LoRA, fold prompt and timestep, drop what is not needed; in place, then in eval mode."""
        if self.unet is None:
            raise ValueError("a network without UNet (with_unet: false) cannot be deployed")
        if has_semantic_lora(self.unet):
            self.strengths = LoraStrengths.taken_from(self.unet)
        merge_lora(self.vae)
        merge_lora(self.unet)
        if isinstance(self.unet, FullUNet):
            self.unet = self.unet.prune()
        return self.eval().requires_grad_(False)

    def set_strengths(self, **strengths: float) -> None:
        """Give the pixel and the semantic LoRA of a deployed network a strength each.

        Args:
            strengths: ``pixel`` and ``semantic``, from 0, without that LoRA, by 1, as trained and as the folder has it,
                upwards; 1 where left out.

        Raises:
            ValueError: the network has no such LoRAs, or a strength is out of range.
        """
        if self.strengths is None:
            raise ValueError(
                "this network has no strengths to set: a stage 2 with network_g: semantic_lora writes one that has"
            )
        self.strengths.apply_to(self.unet, **strengths)

    def for_inference(
        self, dtype: torch.dtype | None = None, kernels: bool = True, decoder_dtype: torch.dtype | None = None
    ) -> LAFRNet:
        """A copy that gives the same faces to rounding, faster: :func:`lafr_arch.fast.optimize_for_inference`."""
        from lafr_arch.fast import optimize_for_inference  # which imports this module's types

        return optimize_for_inference(self, dtype, decoder_dtype, kernels)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the deployed network to a folder: :func:`lafr_arch.deployed.write`; this network stays as it is."""
        deployed.write(self if self.is_deployed else copy.deepcopy(self).deploy(), folder, dtype)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> LAFRNet:
        """Load a folder written by :meth:`save_pretrained`, in fp32 and eval mode.

        Raises:
            FileNotFoundError: a file is missing; says which.
            ValueError: the folder holds something else.
        """
        config, state = deployed.read(folder)
        with torch.device("meta"):
            net = cls(**deployed.empty_parts(config))
        try:
            net.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{Path(folder) / WEIGHTS_NAME} does not fit its config.json: {error}") from error
        return net.eval().requires_grad_(False).to(device)

    def parts(self) -> Sequence[tuple[str, nn.Module | None]]:
        """The network's parts in the order of their use, by name."""
        parts = (self.vae, self.alignment, self.unet, self.fidelity, self.decoder)
        return tuple(zip(("vae", "alignment", "unet", "fidelity", "decoder"), parts, strict=True))
