"""The demonstration: a small image world drawn in code and a small CLIP trained on it, both shipped with the package.

It exists so that the whole chain of commands can be tried offline in under a minute. It is not a benchmark: the images
are coloured shapes, the CLIP is thousands of times smaller than a real one, and no number from it says anything about
ImageNet.
"""
