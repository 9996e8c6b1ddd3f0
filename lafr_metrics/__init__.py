"""Metrics of LAFR, registered in METRIC_REGISTRY by modules named *_metric.py."""

import lafr_base.compat  # noqa: F401 - before any module here imports basicsr
