"""Networks of LAFR, registered in ARCH_REGISTRY by modules named *_arch.py."""
