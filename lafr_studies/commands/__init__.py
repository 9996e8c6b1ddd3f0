"""Subcommands of the `lafr` console command that run a study, one module each."""
