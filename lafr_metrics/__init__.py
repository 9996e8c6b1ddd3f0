"""Metrics of LAFR, registered in METRIC_REGISTRY by modules named *_metric.py."""
