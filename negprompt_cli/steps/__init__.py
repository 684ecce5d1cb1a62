"""The jobs of the command line, one file per subcommand; `shared` has what several of them need.

A step takes a resolved configuration and paths, does one job and returns a typed result. It prints nothing: it reports its
progress to an object that it is given, and raises errors with the facts.
May import: `engine`, `data`, `report`; never `cli`.
Neighbours: `cli` parses options and shows results.
"""
