"""Read files and images, encode features, and write artifacts and results. Each subpackage says what belongs there.

    files      safe reading and writing of single files
    sets       from a SPEC to paths, labels and class names
    prepare    list, check, download and make image sets
    encoding   from image files to features
    results    the files that a run writes
    studies    published results, experiments, grids
May import: `engine`, `config`, `progress`, `errors`; never `steps` or `cli`.
"""
