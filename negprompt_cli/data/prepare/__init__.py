"""Prepare image sets: list, check, download and create them.

Belongs here: all work on image sets that needs no model.
May import: `errors`, `config`, `progress`, `data/files`, `data/sets`, `data/encoding`, `engine/parallel`.
Neighbours: `data/sets` defines image sets; the `data` commands are in `cli/data`.
"""
