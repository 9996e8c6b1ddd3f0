"""The paper's ablations: rows as deltas of option files, trained by the launcher, measured, put into tables.

- :mod:`lafr.ablations.tables`: reads ``options/ablations.yml``.
- :mod:`lafr.ablations.deltas`: merges deltas into option files and refuses what no option file knows.
- :mod:`lafr.ablations.runs`: the trainings behind the rows, shared where their options are equal.
- :mod:`lafr.ablations.measure`: the metrics of a trained network on the option file's validation set.
- :mod:`lafr.ablations.report`: means, spread over seeds, paired differences; Markdown.
- :mod:`lafr.ablations.experiment`: a whole table.
"""
