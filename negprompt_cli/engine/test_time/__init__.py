"""Test-time scores: they learn from the images they are tested on, as these come.

Other scores see one image at a time and say the same of it whatever else is tested. These keep what earlier images of the
stream looked like, OOD images among them, so their figures depend on how many OOD images there are and on their order. They
are never a default, never among the scores of `engine/scores`, and results hold them apart.

This package imports no torch, so that the command line can list the scores at once.
"""

from negprompt_cli.engine.test_time.registry import TEST_TIME_SCORES, TestTimeScore, find_test_time_score

__all__ = ["TEST_TIME_SCORES", "TestTimeScore", "find_test_time_score"]
