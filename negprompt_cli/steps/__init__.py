"""The jobs of the command line, one file per subcommand; `shared` has what several of them need.

A step takes a resolved configuration and paths, does one job and returns a typed result. It prints nothing: it reports its
progress to an object that it is given, and raises errors with the facts.

What many functions of this layer share is said only here. `bench` is the workbench: the resolved configuration with its
model, its data, and the object that receives messages (`progress`). `out` is the file to write, and `overwrite` tells
whether it may be replaced. `NegPromptError` is raised if an image is broken, the model cannot be loaded, a file cannot be
read or written, or the disk is full.

May import: `engine`, `data`, `report`; never `cli`.
Neighbours: `cli` parses options and shows results.
"""
