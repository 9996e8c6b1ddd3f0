"""Names of floating point types, as options, flags and config.json spell them."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The names that are shown and written."""

SPELLINGS = {**DTYPES, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The names that options may use: PyTorch's own, too."""
