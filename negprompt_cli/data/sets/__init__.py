"""Image sets: find the paths, labels and class names of the images that a SPEC on the command line names.

Belongs here: the catalogue and its protocols, common folder layouts, images inside tar files, Parquet files and Hugging
Face datasets, readers of image lists and class names, class selectors, and the sampling of shots.
May import: `errors`, `config`, `data/files`.
Neighbours: `data/prepare` downloads and checks sets; `data/encoding` opens the images.
"""
