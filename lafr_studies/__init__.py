"""Studies: what nobody needs to restore or to train. Each has a subcommand of ``lafr`` in :mod:`lafr_studies.commands`.

comparison    methods side by side: ``lafr compare``
ablations     the paper's tables: ``lafr ablate``
figures       the paper's figures: ``lafr figures``
evaluation    a folder of results against its originals: ``lafr evaluate``
"""
