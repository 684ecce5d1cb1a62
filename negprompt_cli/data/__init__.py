"""Files in, features and artifacts out. One room per kind of file; each says what belongs there.

    files      safe reading and writing of single files
    sets       from a SPEC to paths, labels and class names
    prepare    list, check, download and make image sets
    encoding   from image files to features
    results    the files that a run leaves
    studies    published figures, experiments, grids
May import: `engine`, `config`, `progress`, `errors`; never `steps` or `cli`.
"""
