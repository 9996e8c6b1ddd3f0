"""Restore millions of photos, by many processes that may be killed and started again; see docs/scale.md.

photos      the photos of a folder or a list, streamed; which process takes which
manifest    what was done, one line a photo
ledger      what of it a process needs to know
entries     what of it the report says
run         the options that results in a folder were made with
work        restore photos, write results, say what happened
ray_engine  the same work by a pool of Ray actors

Importing this package needs neither PyTorch nor Ray.
"""
