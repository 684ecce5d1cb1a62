"""From image files to features: models loaded, images decoded, batches encoded, features cached.

Belongs here: everything between a path on disk and its (D,) feature.
May import: `errors`, `config`, `progress`, `data/files`, `data/sets`, `engine`.
Neighbours: `engine/clip` is the model itself; `data/sets` says which images.
"""
