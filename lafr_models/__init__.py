"""Training stages of LAFR, registered in MODEL_REGISTRY by modules named *_model.py; these need BasicSR."""

import lafr_base.compat  # noqa: F401 - before any module here imports basicsr
