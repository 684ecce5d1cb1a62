"""The files that a run writes: prompt artifacts, checkpoints, evaluations, rows of scored images, sorted folders.

Belongs here: the file formats of the project, each read and written in one module, and publishing them.
May import: `errors`, `config`, `data/files`, `data/sets`, `engine`.
Neighbours: `steps` decides what to write; `data/studies` has published results.
"""
