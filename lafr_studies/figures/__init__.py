"""The paper's figures that are statistics: latents (figure 7), compactness (figure 10), trends (figures 6 and 9).

- :mod:`lafr_studies.figures.figure_inputs`: networks, faces and images.
- :mod:`lafr_studies.figures.point_statistics`: distances and silhouettes.
- :mod:`lafr_studies.figures.drawing`: t-SNE and pictures.
- :mod:`lafr_studies.figures.latents`, :mod:`lafr_studies.figures.compactness`, :mod:`lafr_studies.figures.trend`: one
  figure each.
"""
