"""Datasets and degradations, imported as lafr_data and registered by modules named *_dataset.py.

degradations    presets and the pipeline that turns a face into its LQ copy
sources         folders and LMDBs of faces, subsets, cache
samplers        an order of samples that a resumed run can enter anywhere
"""
