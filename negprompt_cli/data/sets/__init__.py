"""Image sets: from a SPEC on the command line to the paths, labels and class names of its images.

Belongs here: the catalogue and its protocols, the layouts in which people keep data sets, images inside tar files, Parquet
files and Hugging Face datasets, readers of image lists and class names, class selectors, and the sampling of shots.
May import: `errors`, `config`, `data/files`.
Neighbours: `data/prepare` downloads and checks sets; `data/encoding` opens the images.
"""
