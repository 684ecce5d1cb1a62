"""The demonstration: a small world of images drawn by code, and a small CLIP trained on it; both are part of the package.

With it, the whole chain of commands can be tried offline in less than a minute. It is not a benchmark: the images are
coloured shapes, the CLIP is thousands of times smaller than a real one, and its results say nothing about ImageNet.
"""
