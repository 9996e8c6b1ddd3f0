"""Losses of LAFR, registered in LOSS_REGISTRY by modules named *_loss.py.

All take (pred, target), RGB (B, 3, H, W) in [0, 1], and return a scalar tensor.
"""

import lafr_base.compat  # noqa: F401 - before any module here imports basicsr
