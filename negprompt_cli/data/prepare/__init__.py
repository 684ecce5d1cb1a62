"""Image sets before a model sees them: list, check, download and make them.

Belongs here: whatever is done to a set before a model sees it.
May import: `errors`, `config`, `progress`, `data/files`, `data/sets`, `data/encoding`, `engine/parallel`.
Neighbours: `data/sets` says what a set is; the `data` commands themselves are in `cli/data`.
"""
