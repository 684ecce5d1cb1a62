"""The jobs of the command line, one file per subcommand; `shared` has what several of them need.

A step takes a resolved configuration and paths, does one job and returns a typed result. It prints nothing: it reports its
progress to an object that it is given, and raises errors with the facts.

Many functions of this layer have the same parameters and errors, which only this docstring describes:

    bench           the `Workbench`: the resolved configuration with its model, its data, and `progress`, which gets messages
    out             the file to write
    overwrite       whether an existing `out` may be replaced
    NegPromptError  an image is broken, the model cannot be loaded, a file cannot be read or written, or the disk is full

May import: `engine`, `data`, `report`; never `cli`.
Neighbours: `cli` parses options and shows results.
"""
