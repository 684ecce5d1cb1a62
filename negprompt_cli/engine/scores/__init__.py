"""OOD scores of image features against prompts, one file per score; higher = more in-distribution.

This package imports no torch, so that the command line can list the scores at once: the names and their records are in
`registry`, the options in `options`. `compute.compute_scores` computes them from a `score_inputs.ScoreInputs`.
"""

from negprompt_cli.engine.scores.options import ScoreOptions
from negprompt_cli.engine.scores.registry import (
    SCORES,
    Score,
    check_scores,
    constant_scores,
    find_score,
    score_names,
)

__all__ = ["SCORES", "Score", "ScoreOptions", "check_scores", "constant_scores", "find_score", "score_names"]
