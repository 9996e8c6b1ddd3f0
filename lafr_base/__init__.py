"""The ground floor: what networks, losses, metrics, datasets and all above them share. It imports none of them.

weights, weight_list    where weights are looked for, what there is of them
images                  photos read and written without losing what they hold
geometry                how an FFHQ-aligned face lies, and how it is cut out
files                   files written whole or not at all, digests
option_map              options checked as they are read
compat                  what BasicSR needs before it is imported
"""
