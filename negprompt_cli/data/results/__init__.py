"""The files that a run leaves: prompt artifacts, checkpoints, evaluations, rows of scored images, sorted folders.

Belongs here: the formats the project writes, each read and written in one module, and publishing them.
May import: `errors`, `config`, `data/files`, `data/sets`, `engine`.
Neighbours: `steps` decides what to write; `data/studies` holds other people's figures.
"""
