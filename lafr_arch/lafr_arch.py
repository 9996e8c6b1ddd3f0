"""LAFRNet: encode, align, denoise, predict, decode: the whole restorer in one class (LAFR, figure 3).

The same class serves both training stages, validation, inference, export and the benchmarks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

import lafr_arch.adapter_arch  # noqa: F401 - registers the alignment module that deployed networks name
import lafr_arch.alignment_arch  # noqa: F401 - registers those of the ablations
from lafr_arch import deployed
from lafr_arch.base_model import load_base_model
from lafr_arch.decoder_arch import build_decoder, load_decoder
from lafr_arch.fidelity_arch import FidelityPath
from lafr_arch.ip_adapter import IPAdapter, image_attention
from lafr_arch.lora import add_encoder_lora, add_lora, lora_layers, merge_lora
from lafr_arch.part_weights import load_part
from lafr_arch.static_unet import FullUNet, StaticUNet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


@ARCH_REGISTRY.register()
class LAFRNet(nn.Module):
    """One-step face restorer on a latent diffusion model.

    Built either from a base model, for training, with the arguments below (the keys of ``network_g`` in an option
    file), or by :meth:`from_pretrained` from a deployed folder.

    Args:
        base_model: folder or hub id of a Stable Diffusion 1.x or 2.x in diffusers' layout, or of the mini prior.
        prompt: the fixed prompt; None for a base model without text encoder.
        timestep: the fixed timestep; the paper's and OSEDiff's is 999.
        prune: fold prompt and timestep into constants (exact; smaller and faster). False keeps the full UNet.
        alignment: the alignment module as a mapping with ``type`` (a network of ARCH_REGISTRY that takes
            ``latent_channels``) and its arguments; None for none.
        alignment_weights: checkpoint of stage 1 (``net_g_*.pth``) to load the alignment module from; averaged
            parameters where it has them.
        with_unet: False leaves the UNet out, as stage 1 may: alignment alone.
        lora: ``rank``, ``targets``, ``alpha`` and ``train`` of :func:`lafr_arch.lora.add_lora`; None for none.
        vae_lora: ``rank`` and ``alpha`` of :func:`lafr_arch.lora.add_encoder_lora`, OSEDiff's; None for none.
        train_unet: train the UNet's own weights (and no LoRA).
        sample_latent: in training mode, sample the LQ latent from the VAE's posterior instead of taking its mean.
        gradient_checkpointing: recompute the activations of the UNet and the decoder in the backward pass to save
            memory.
        decoder_dtype: ``fp32``, ``bf16`` or ``fp16`` for the frozen decoder, which is most of the work and of the
            memory of activations. The other parts stay in fp32: the step at timestep 999 multiplies the UNet's rounding
            by 14.6, and rounding before the codebook changes which code is nearest. :meth:`save_pretrained` writes the
            decoder with this rounding; ``lafr export`` reads the base model afresh.
        image_size: side of the faces in pixels; 8 times the UNet's sample size by default.
        decoder: another decoder in the place of the VAE's, as a mapping with ``type`` (SmallDecoder or TAESDDecoder)
            and its arguments: faster, with images that differ. None for the VAE's own.
        decoder_weights: its weights, as :func:`lafr_arch.decoder_arch.load_decoder` takes them.
        ip_adapter: arguments of :class:`lafr_arch.ip_adapter.IPAdapter`, which conditions the UNet on the LQ face; its
            projection, keys and values train. None for none.
        fidelity: arguments of :class:`lafr_arch.fidelity_arch.FidelityPath`, which carries what the face still shows
            past the latent to the decoder and is trained in stage 2; for VAEs that offer maps of their encoder
            (MiniAutoencoder does). None, the paper's form, for none.
        train_decoder: train the VAE's decoder, too. False, the paper's form, keeps it frozen.
    """

    def __init__(
        self,
        base_model: str,
        prompt: str | None = "face, high quality",
        timestep: int = 999,
        prune: bool = True,
        alignment: Mapping[str, Any] | None = None,
        alignment_weights: str | None = None,
        with_unet: bool = True,
        lora: Mapping[str, Any] | None = None,
        vae_lora: Mapping[str, Any] | None = None,
        train_unet: bool = False,
        sample_latent: bool = False,
        gradient_checkpointing: bool = False,
        decoder_dtype: str = "fp32",
        image_size: int | None = None,
        decoder: Mapping[str, Any] | None = None,
        decoder_weights: str | None = None,
        ip_adapter: Mapping[str, Any] | None = None,
        fidelity: Mapping[str, Any] | None = None,
        train_decoder: bool = False,
    ) -> None:
        super().__init__()
        if (decoder is None) != (decoder_weights is None):
            raise ValueError("network_g: decoder and decoder_weights need each other")
        if decoder is not None and (fidelity is not None or train_decoder):
            raise ValueError("network_g: decoder takes the place of the one that fidelity and train_decoder are about")
        if lora is not None and train_unet:
            raise ValueError("network_g: lora and train_unet: true exclude each other")
        base = load_base_model(base_model, prompt, timestep)
        unet: nn.Module | None = None
        conditioner = None if ip_adapter is None else IPAdapter.on(base.unet, **ip_adapter)
        if with_unet and prune:
            unet = StaticUNet.from_unet(base.unet, base.prompt_embeds, timestep)
        elif with_unet:
            unet = FullUNet(base.unet, base.prompt_embeds, timestep)
        elif lora is not None or train_unet or ip_adapter is not None:
            raise ValueError("network_g: with_unet: false leaves nothing for lora, ip_adapter or train_unet: true")
        self._set(
            vae=base.vae,
            unet=unet,
            alignment=alignment,
            prediction_type=base.prediction_type,
            alpha_cumprod=base.alpha_cumprod,
            image_size=image_size or 8 * base.unet.config.sample_size,
            ip_adapter=conditioner,
            fidelity=fidelity,
        )
        self.sample_latent = sample_latent
        self.vae.requires_grad_(False)
        self.vae.decoder.requires_grad_(train_decoder)
        if decoder is not None:
            self.set_decoder(decoder, decoder_weights)
        if vae_lora is not None:
            add_encoder_lora(self.vae, **vae_lora)
        if decoder_dtype not in DTYPES:
            raise ValueError(f"network_g: decoder_dtype: {decoder_dtype} is unknown; use {', '.join(DTYPES)}")
        self.set_decoder_dtype(DTYPES[decoder_dtype])
        if gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        if alignment_weights is not None:
            self._load_alignment(alignment_weights)
        if unet is None:
            return
        unet.requires_grad_(train_unet)
        if lora is not None:
            add_lora(unet, **lora)
        for layer in image_attention(unet):
            layer.requires_grad_(True)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def _set(
        self,
        vae: Any,
        unet: nn.Module | None,
        alignment: Mapping[str, Any] | None,
        prediction_type: str,
        alpha_cumprod: float,
        image_size: int,
        ip_adapter: IPAdapter | None = None,
        fidelity: Mapping[str, Any] | None = None,
    ) -> None:
        self.vae: Any = vae
        self.unet: Any = unet
        self.alignment_config = None if alignment is None else dict(alignment)
        self.alignment: nn.Module | None = None
        if alignment is not None:
            self.alignment = build_network({"latent_channels": vae.config.latent_channels, **alignment})
        self.ip_adapter = ip_adapter
        self.fidelity_config: dict[str, Any] | None = None
        self.fidelity: FidelityPath | None = None
        if fidelity is not None:
            self._set_fidelity(fidelity)
        self.prediction_type = prediction_type
        self.alpha_cumprod = alpha_cumprod
        self.image_size = image_size
        self.sample_latent = False
        self.decoder_config: dict[str, Any] | None = None
        self.decoder: nn.Module | None = None
        self.dtype = self.decoder_dtype = torch.float32
        # What a copy made by for_inference runs for each block and convolution.
        self.inference_plan: dict[str, str] = {}

    def _set_fidelity(self, fidelity: Mapping[str, Any]) -> None:
        if not hasattr(self.vae, "fusion_channels"):
            name = type(self.vae).__name__
            raise ValueError(f"network_g: fidelity: a {name} offers no maps of its encoder; leave it out")
        self.fidelity_config = dict(fidelity)
        self.fidelity = FidelityPath(*self.vae.fusion_channels, **fidelity)

    def _load_alignment(self, path: str) -> None:
        if self.alignment is None:
            raise ValueError("network_g: alignment_weights is given, but alignment is not")
        load_part(self.alignment, path, "alignment_weights", prefix="alignment.")

    def set_decoder(self, decoder: Mapping[str, Any], weights: str | None = None) -> None:
        """Decode by another network from now on; the VAE loses its decoder. Arguments as for the class."""
        self.decoder_config = dict(decoder)
        self.decoder = build_decoder(decoder, self.vae.config).eval().requires_grad_(False)
        if weights is not None:
            load_decoder(self.decoder, weights)
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
        merge_lora(self.vae)
        merge_lora(self.unet)
        if isinstance(self.unet, FullUNet):
            self.unet = self.unet.prune()
        return self.eval().requires_grad_(False)

    def for_inference(self, dtype: torch.dtype | None = None, decoder_dtype: torch.dtype | None = None) -> LAFRNet:
        """A copy that gives the same faces to rounding, faster: :func:`lafr_arch.fast.optimize_for_inference`."""
        from lafr_arch.fast import optimize_for_inference  # which imports this module's types

        return optimize_for_inference(self, dtype, decoder_dtype)

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
        net = cls.__new__(cls)
        nn.Module.__init__(net)
        net._read_deployed(folder)
        return net.to(device)

    def _read_deployed(self, folder: str | Path) -> None:
        config, state = deployed.read(folder)
        with torch.device("meta"):
            vae, unet, conditioner = deployed.empty_parts(config)
            self._set(
                vae=vae,
                unet=unet,
                alignment=config["alignment"],
                prediction_type=config["prediction_type"],
                alpha_cumprod=config["alpha_cumprod"],
                image_size=config["image_size"],
                ip_adapter=conditioner,
                fidelity=config.get("fidelity"),
            )
            if config.get("decoder") is not None:
                self.set_decoder(config["decoder"])
        try:
            self.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{Path(folder) / deployed.WEIGHTS_NAME} does not fit its config.json: {error}") from error
        self.eval().requires_grad_(False)

    def parts(self) -> Sequence[tuple[str, nn.Module | None]]:
        """The network's parts in the order of their use, by name."""
        parts = (self.vae, self.alignment, self.unet, self.fidelity, self.decoder)
        return tuple(zip(("vae", "alignment", "unet", "fidelity", "decoder"), parts, strict=True))
