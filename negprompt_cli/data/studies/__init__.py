"""Data of studies: published results, experiments and their costs, grids of settings, citations.

Belongs here: data files about experiments and their typed readers.
May import: `errors`, `config`, `data/files`.
Neighbours: `steps/reproduce`, `steps/sweep`, `steps/compare` and `steps/cite` use them.
"""
