"""One of several processes under torchrun: launches every option file that is named, up to its process group.

A process can have one group: the first file starts it, and what the others would start it with is checked.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from typing import Any

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
    start = torch.distributed.init_process_group

    def start_once(**arguments: Any) -> None:
        if torch.distributed.is_initialized():
            inspect.signature(start).bind(**arguments)
        else:
            start(**arguments)

    torch.distributed.init_process_group = start_once
    for path in sys.argv[1:]:
        sys.argv = ["train.py", "-opt", path, "--launcher", "pytorch"]
        opt, _ = options.parse_options(tempfile.gettempdir())
        total = torch.ones(())
        torch.distributed.all_reduce(total)
        sys.stdout.write(f"{path}: process {opt['rank']} of {opt['world_size']}, sum {total.item():g}\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
