"""Datasets and degradations, imported as lafr_data and registered by modules named *_dataset.py."""
