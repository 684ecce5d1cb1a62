"""Prompt learners: context vectors, their encoding with class names, and their training.

Belongs here: the code that maps contexts (C, M, D) and class names to prompt features (C, K, F) with gradients, and the
training loop.
May import: `errors` and other rooms of `engine`; never `data`, `steps` or `cli`.
Neighbours: `engine/losses` has the objectives; `engine/clip` has the model.
"""
