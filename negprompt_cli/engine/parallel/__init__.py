"""Work shared by several processes: their ranks, calls from rank 0 to the others, and prompt encoding by all of them.

Belongs here: all code that depends on ranks.
May import: `errors` and other rooms of `engine`; never `data`, `steps` or `cli`.
Neighbours: `data/encoding/sharding` distributes images; `engine/prompt_learners` encodes in one process.
"""
