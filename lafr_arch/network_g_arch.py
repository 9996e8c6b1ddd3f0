"""LAFRNet as ``network_g`` of an option file describes it: made of a base model, or of a deployed folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lafr_arch.base_model import load_base_model
from lafr_arch.decoder_arch import frozen_decoder
from lafr_arch.fidelity_arch import build_fidelity
from lafr_arch.ip_adapter import IPAdapter, image_attention
from lafr_arch.lafr_arch import LAFRNet
from lafr_arch.lora import add_encoder_lora, add_lora, add_semantic_lora
from lafr_arch.parts import build_alignment
from lafr_arch.static_unet import FullUNet, StaticUNet
from lafr_base.dtypes import DTYPES, SPELLINGS
from lafr_base.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register("LAFRNet")
def build_lafr(
    base_model: str,
    prompt: str | None = "face, high quality",
    timestep: int = 999,
    prune: bool = True,
    alignment: Mapping[str, Any] | None = None,
    alignment_weights: str | None = None,
    with_unet: bool = True,
    lora: Mapping[str, Any] | None = None,
    semantic_lora: Mapping[str, Any] | None = None,
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
) -> LAFRNet:
    """Make a LAFRNet of a base model: ``network_g: {type: LAFRNet, ...}``.

    Under ``with torch.device("meta"):`` nothing is read but configurations: a network to be counted.

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
        semantic_lora: ``rank``, ``targets`` and ``alpha`` of :func:`lafr_arch.lora.add_semantic_lora`: a second LoRA
            on the UNet, so that fidelity and detail can be given a strength each once they are trained
            (:mod:`lafr_arch.lora_strengths`). None, the paper's form, for none.
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

    Raises:
        lafr_arch.base_model.BaseModelError: the base model is not there, is incomplete, or does not fit the prompt.
        FileNotFoundError: a file of weights is not there.
        ValueError: options contradict each other, or a file holds something else.
    """
    if (decoder is None) != (decoder_weights is None):
        raise ValueError("network_g: decoder and decoder_weights need each other")
    if decoder is not None and (fidelity is not None or train_decoder):
        raise ValueError("network_g: decoder takes the place of the one that fidelity and train_decoder are about")
    if lora is not None and train_unet:
        raise ValueError("network_g: lora and train_unet: true exclude each other")
    if semantic_lora is not None and (lora is None or not prune):
        raise ValueError("network_g: semantic_lora stands beside lora, on a UNet with prune: true")
    if not with_unet and (lora is not None or train_unet or ip_adapter is not None):
        raise ValueError("network_g: with_unet: false leaves nothing for lora, ip_adapter or train_unet: true")
    if alignment_weights is not None and alignment is None:
        raise ValueError("network_g: alignment_weights is given, but alignment is not")
    if decoder_dtype not in SPELLINGS:
        raise ValueError(f"network_g: decoder_dtype: {decoder_dtype} is unknown; use {', '.join(DTYPES)}")
    base = load_base_model(base_model, prompt, timestep)
    vae: Any = base.vae.requires_grad_(False)
    vae.decoder.requires_grad_(train_decoder)
    conditioner = None if ip_adapter is None else IPAdapter.on(base.unet, **ip_adapter)
    unet: StaticUNet | FullUNet | None = None
    if with_unet:
        fixed = StaticUNet.from_unet if prune else FullUNet
        unet = fixed(base.unet, base.prompt_embeds, timestep)
    configs = {"alignment": alignment, "decoder": decoder, "fidelity": fidelity}
    net = LAFRNet(
        vae,
        unet,
        build_alignment(alignment, vae.config.latent_channels, alignment_weights),
        prediction_type=base.prediction_type,
        alpha_cumprod=base.alpha_cumprod,
        image_size=image_size or 8 * base.unet.config.sample_size,
        ip_adapter=conditioner,
        fidelity=None if fidelity is None else build_fidelity(fidelity, vae),
        decoder=None if decoder is None else frozen_decoder(decoder, vae.config, decoder_weights),
        configs={name: config for name, config in configs.items() if config is not None},
        sample_latent=sample_latent,
    )
    if vae_lora is not None:
        add_encoder_lora(vae, **vae_lora)
    net.set_decoder_dtype(SPELLINGS[decoder_dtype])
    if gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    if unet is not None:
        unet.requires_grad_(train_unet)
        if lora is not None:
            add_lora(unet, **lora)
        if semantic_lora is not None:
            add_semantic_lora(unet, **semantic_lora)
        for layer in image_attention(unet):
            layer.requires_grad_(True)
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
    return net


@ARCH_REGISTRY.register("DeployedLAFRNet")
def build_deployed_lafr(
    folder: str,
    lora: Mapping[str, Any] | None = None,
    semantic_lora: Mapping[str, Any] | None = None,
    train_unet: bool = False,
    train_decoder: bool = False,
    fidelity: Mapping[str, Any] | None = None,
    grow_decoder: int | None = None,
    image_size: int | None = None,
    pixel_strength: float = 1.0,
    semantic_strength: float = 1.0,
) -> LAFRNet:
    """Read a deployed network: ``network_g: {type: DeployedLAFRNet, folder: FOLDER}``, to be tested or trained further.

    With ``lora``, ``train_unet``, ``train_decoder`` or a fidelity path stage 2 goes on from it, without the base model
    that it was made of. What is added starts as doing nothing.

    Args:
        folder: what :meth:`LAFRNet.save_pretrained` or ``lafr export`` wrote.
        lora: as for :func:`build_lafr`.
        semantic_lora: as for :func:`build_lafr`.
        train_unet: as for :func:`build_lafr`.
        train_decoder: as for :func:`build_lafr`.
        fidelity: as for :func:`build_lafr`; for a folder that has a path, leave it out: the path trains where anything
            else but LoRA does.
        grow_decoder: channels of a further size in the decoder; see :meth:`MiniAutoencoder.grown`.
        image_size: side of the faces from now on, in pixels; the folder's by default.
        pixel_strength: of the pixel LoRA, where the folder has two: 1 as trained, 0 for none.
        semantic_strength: of the semantic LoRA, likewise.

    Raises:
        FileNotFoundError: a file is missing; says which.
        ValueError: the folder holds something else, or options contradict each other.
    """
    if lora is not None and train_unet:
        raise ValueError("network_g: lora and train_unet: true exclude each other")
    if semantic_lora is not None and lora is None:
        raise ValueError("network_g: semantic_lora stands beside lora, which is missing")
    net = LAFRNet.from_pretrained(folder)
    if fidelity is not None and net.fidelity is not None:
        raise ValueError(f"network_g: fidelity: {folder} has such a path already; leave it out")
    if grow_decoder is not None:
        net.vae = net.vae.grown(grow_decoder).requires_grad_(False)
    if fidelity is not None:
        net.fidelity, net.configs["fidelity"] = build_fidelity(fidelity, net.vae), dict(fidelity)
    net.image_size = image_size or net.image_size
    net.unet.requires_grad_(train_unet)
    net.vae.decoder.requires_grad_(train_decoder)
    if net.fidelity is not None:
        net.fidelity.requires_grad_(fidelity is not None or train_unet or train_decoder)
    if (pixel_strength, semantic_strength) != (1, 1):
        net.set_strengths(pixel=pixel_strength, semantic=semantic_strength)
    if lora is not None:
        add_lora(net.unet, **lora)
    if semantic_lora is not None:
        if net.strengths is not None:
            raise ValueError(f"network_g: semantic_lora: {folder} has two LoRAs already; leave it out")
        add_semantic_lora(net.unet, **semantic_lora)
    return net
