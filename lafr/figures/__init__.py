"""The paper's figures that are statistics: latents (figure 7), compactness (figure 10), trends (figures 6 and 9).

- :mod:`lafr.figures.inputs`: networks, faces and images.
- :mod:`lafr.figures.statistics`: distances and silhouettes.
- :mod:`lafr.figures.drawing`: t-SNE and pictures.
- :mod:`lafr.figures.latents`, :mod:`lafr.figures.compactness`, :mod:`lafr.figures.trend`: one figure each.
"""
