"""Prompt learners: context vectors, their encoding with class names, and their training.

Belongs here: what turns contexts (C, M, D) and class names into prompt features (C, K, F), with gradients, and the loop
that learns the contexts.
May import: `errors` and other rooms of `engine`; never `data`, `steps` or `cli`.
Neighbours: `engine/losses` says what is minimised; `engine/clip` holds the model.
"""
