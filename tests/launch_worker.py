"""One of several processes under torchrun: starts and ends the process group of every option file that is named.

Each argument is OPTION_FILE@PORT.
"""

from __future__ import annotations

import os
import sys
import tempfile

import torch

import lafr


def main() -> None:
    """Launch each option file as basicsr/train.py does, but for the files and faces that it needs and are not here."""
    lafr.register()
    import lafr_models.options as options
    from lafr_models.launcher import patch_training

    patch_training()

    def check(opt: dict[str, object], root_path: str, is_train: bool) -> list[str]:
        options.complete(opt, root_path, is_train)
        return []

    options.check = check
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # which a process can use for one group only
    for pair in sys.argv[1:]:
        path, os.environ["MASTER_PORT"] = pair.rsplit("@", 1)
        sys.argv = ["train.py", "-opt", path, "--launcher", "pytorch"]
        opt, _ = options.parse_options(tempfile.gettempdir())
        total = torch.ones(())
        torch.distributed.all_reduce(total)
        sys.stdout.write(f"{path}: process {opt['rank']} of {opt['world_size']}, sum {total.item():g}\n")
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
