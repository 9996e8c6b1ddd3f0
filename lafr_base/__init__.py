"""The ground floor: what networks, losses, metrics, datasets and all above them share. It imports none of them.

weights, weight_list       where weights are looked for, what there is of them
checkpoints, model_folder  checkpoints read; the folder that a network is kept in
images                     photos read and written without losing what they hold
geometry                   how an FFHQ-aligned face lies, and how it is cut out
files, private_cache       files written whole or not at all, digests; what is made once on a machine and then trusted
processor                  what the processor can do
dtypes                     names of floating point types
registry                   classes by name, found in the modules of their package
option_map, option_keys    options checked as they are read; keys with their meaning
face_sets                  where sets of faces are had from
compat                     what BasicSR needs before it is imported, and whether it is there
"""
