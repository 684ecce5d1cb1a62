"""Facts and plans of studies: published figures, experiments and what they cost, grids of settings, whom to cite.

Belongs here: data files about experiments and their typed readers.
May import: `errors`, `config`, `data/files`.
Neighbours: `steps/reproduce`, `steps/sweep`, `steps/compare` and `steps/cite` run and show them.
"""
