"""Networks of LAFR, registered in ARCH_REGISTRY by modules named *_arch.py."""

import lafr_base.compat  # noqa: F401 - before any module here imports basicsr
