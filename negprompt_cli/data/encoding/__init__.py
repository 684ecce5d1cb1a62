"""Compute features of image files: load models, decode images, encode batches, cache features.

Belongs here: everything between the path of an image and its (D,) feature.
May import: `errors`, `config`, `progress`, `data/files`, `data/sets`, `engine`.
Neighbours: `engine/clip` is the model; `data/sets` finds the images.
"""
