"""Figures of OOD detection from scores: AUROC, AUPR, FPR95, OSCR, their intervals, and thresholds.

Belongs here: pure functions of scores and labels. ID is the positive class; a higher score is more ID.
May import: `errors` only.
Neighbours: `engine/scores` makes the scores; `data/results/evaluations` keeps the figures.
"""
