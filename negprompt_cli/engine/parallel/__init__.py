"""Several processes: their ranks, calls from rank 0 to the others, and prompts encoded by all of them.

Belongs here: everything that knows of ranks.
May import: `errors` and other rooms of `engine`; never `data`, `steps` or `cli`.
Neighbours: `data/encoding/sharding` deals images out; `engine/prompt_learners` encodes on one process.
"""
