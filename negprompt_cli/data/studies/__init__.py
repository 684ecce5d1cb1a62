"""Facts and plans of studies: published figures, the paper's experiments, grids of settings.

Belongs here: data files about experiments and their typed readers.
May import: `errors`, `config`, `data/files`.
Neighbours: `steps/reproduce`, `steps/sweep` and `steps/compare` run and show them.
"""
