"""Reading and writing single files safely: atomic writes, and text and YAML read within bounds.

Belongs here: what any kind of file needs. A format that means something to the project has its own room.
May import: `errors` only.
Neighbours: `data/results` writes the project's own files; `data/sets` reads lists and folders of images.
"""
