"""Losses of LAFR, registered in LOSS_REGISTRY by modules named *_loss.py.

All take (pred, target), RGB (B, 3, H, W) in [0, 1], and return a scalar tensor. A squared error on images in [-1, 1],
as OSEDiff weighs it, is four times the one here: option files that follow its MSE of weight 1 say 4.
"""
