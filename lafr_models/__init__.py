"""Training stages of LAFR, registered in MODEL_REGISTRY by modules named *_model.py."""
