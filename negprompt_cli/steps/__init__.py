"""The jobs of the command line, one file per subcommand; `shared` has what they have in common.

A step takes a resolved configuration and paths, does one job and returns a typed result. It prints nothing: progress goes
to the object it is given, and errors are raised with the facts.
May import: `engine`, `data`, `report`; never `cli`.
Neighbours: `cli` parses options and shows results.
"""
