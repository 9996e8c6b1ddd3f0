"""The ground floor: what networks, losses, metrics, datasets and all above them share. It imports none of them.

weights, weight_list    where weights are looked for, what there is of them
images                  photos read and written without losing what they hold
ffhq, face_crops        how an FFHQ-aligned face lies, crops of faces
files                   files written whole or not at all, digests
option_map              options checked as they are read
compat                  what BasicSR needs before it is imported
"""
