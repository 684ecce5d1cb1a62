"""Reading and writing single files safely: atomic writes, and text and YAML read within bounds.

Belongs here: code that any kind of file needs. Formats of this project belong to other packages.
May import: `errors` only.
Neighbours: `data/results` writes the files of this project; `data/sets` reads lists and folders of images.
"""
