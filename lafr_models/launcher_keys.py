"""The keys of an option file that BasicSR's launcher reads, whatever stage is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from lafr_base.option_keys import REQUIRED, Key

TOP = (
    Key("name", str, REQUIRED, "name of the run, and of its folder under experiments/ or results/"),
    Key("model_type", str, REQUIRED, "class of the training stage"),
    Key("scale", int, None, "BasicSR's; faces keep their size here, and nothing reads it"),
    Key("num_gpu", int | Literal["auto"], "auto", "most GPUs to use in one process; auto: all there are; 0: the CPU"),
    Key("manual_seed", int, None, "seed of the run; without it one is drawn, and the run cannot be repeated"),
    Key("find_unused_parameters", bool, False, "several processes: look for parameters that got no gradient (DDP)"),
    Key("datasets", Mapping, REQUIRED, "`train`, `val`, `val_*`; for tests `test_*`: a `type` and its options each"),
    Key("path", Mapping, REQUIRED, "files to start from"),
    Key("train", Mapping, None, "how it is trained; required by basicsr/train.py"),
    Key("val", Mapping, None, "how it is validated; required by basicsr/test.py"),
    Key("logger", Mapping, None, "logs and checkpoints; required by basicsr/train.py"),
    Key("dist_params", Mapping, None, "several processes (`--launcher pytorch` or `slurm`)"),
)

PATH = (
    Key("resume_state", str, None, "training state to continue from; `--auto_resume` finds the newest itself"),
    Key(
        "resume_changed",
        bool,
        False,
        "continue although options that change the training differ from the saved ones; the option file's are taken",
    ),
    Key("ignore_resume_networks", list, None, "networks that a resumed run does not load again, such as network_d"),
)

OF_NETWORK = (
    Key("pretrain_network_*", str, None, "checkpoint that the network starts from"),
    Key("strict_load_*", bool, True, "false: load what fits of the checkpoint"),
    Key("param_key_*", str, "params", "entry of the checkpoint: params or params_ema"),
)
"""Keys of ``path:`` that every network has, the star being what follows ``network_`` in its own."""

LOGGER = (
    Key("print_freq", int, REQUIRED, "iterations between two lines of the log"),
    Key("save_checkpoint_freq", int, REQUIRED, "iterations between two checkpoints with training states"),
    Key("use_tb_logger", bool, REQUIRED, "write for TensorBoard, to tb_logger/NAME"),
    Key("wandb", Mapping, None, "`project` and perhaps `resume_id`: send what TensorBoard gets to Weights & Biases"),
)

VAL = (
    Key("val_freq", int, REQUIRED, "iterations between two validations; training only"),
    Key("save_img", bool, REQUIRED, "write the restored pictures"),
    Key("suffix", str, None, "tests: end of the pictures' names; the run's name where left out"),
    Key("metrics", Mapping, None, "metrics by a name of your own: a `type` (docs/metrics.md) and its options each"),
    Key("pbar", bool, None, "BasicSR's; a bar is shown on terminals, and nothing reads it"),
)

DIST = (
    Key("backend", str, "nccl", "of torch.distributed; without a GPU gloo is taken"),
    Key("port", int, None, "slurm: port of the first process; torchrun chooses its own"),
)

TRAIN = (
    Key("total_iter", int, REQUIRED, "iterations of the run"),
    Key("warmup_iter", int, -1, "iterations over which the learning rate rises from 0; needs a `scheduler`"),
)
