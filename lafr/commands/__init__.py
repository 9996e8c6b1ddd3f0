"""Subcommands of the `lafr` console command, one module each."""
