"""Test-time scores, which learn from the stream of test images.

An ordinary score of an image depends on that image only. Test-time scores remember earlier images of the stream, OOD images
included. Their results therefore depend on the number of OOD images and on the order of the stream. They are never a
default, they are not among the scores of `engine/scores`, and results list them separately.

This package imports no torch, so that the command line can list the scores at once.
"""

from negprompt_cli.engine.test_time.registry import TEST_TIME_SCORES

__all__ = ["TEST_TIME_SCORES"]
