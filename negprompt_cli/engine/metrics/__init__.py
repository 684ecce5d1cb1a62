"""Metrics of OOD detection: AUROC, AUPR, FPR95, OSCR, their confidence intervals, and thresholds on scores.

Belongs here: pure functions of scores and labels. ID is the positive class; a higher score means more ID.
May import: `errors` only.
Neighbours: `engine/scores` computes the scores; `data/results/evaluations` stores the metrics.
"""
