"""OOD scores of image features against prompts, one file per score; higher = more in-distribution.

This package imports no torch, so that the command line can list the scores at once: the names and their records are in
`catalogue`, the options in `options`. `compute.compute_scores` computes them, on a `bank.PromptBank`.
"""

from negprompt_cli.engine.scores.catalogue import (
    DEFAULT_SCORES,
    SCORES,
    Score,
    check_scores,
    find_score,
    score_names,
)
from negprompt_cli.engine.scores.options import ScoreOptions

__all__ = ["DEFAULT_SCORES", "SCORES", "Score", "ScoreOptions", "check_scores", "find_score", "score_names"]
