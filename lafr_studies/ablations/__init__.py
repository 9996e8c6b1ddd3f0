"""The paper's ablations: rows as deltas of option files, trained by the launcher, measured, put into tables.

- :mod:`lafr_studies.ablations.paper_tables`: reads ``options/ablations.yml``.
- :mod:`lafr_studies.ablations.deltas`: merges deltas into option files and refuses what no option file knows.
- :mod:`lafr_studies.ablations.runs`: the trainings behind the rows, shared where their options are equal.
- :mod:`lafr_studies.ablations.row_metrics`: the metrics of a trained network on the option file's validation set.
- :mod:`lafr_studies.ablations.row_report`: means, spread over seeds, paired differences; Markdown.
- :mod:`lafr_studies.ablations.experiment`: a whole table.
"""
