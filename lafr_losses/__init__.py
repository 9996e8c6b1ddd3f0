"""Losses of LAFR, registered in LOSS_REGISTRY by modules named *_loss.py."""
