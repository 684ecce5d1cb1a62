"""What several subcommands share: the workbench, preparation of training data, outputs, resuming.

Belongs here: a helper of two or more files of `steps`. A helper of one file lives in that file.
May import: everything below `steps`; never a file of `steps` itself, and never `cli`.
Neighbours: `steps` has one file per subcommand; `data` reads and writes the files.
"""
