"""What the ranks other than 0 do: they answer rank 0's calls until it dismisses them."""

from typing import Any

import torch

from negprompt_cli.data.encoding.sharding import answer_images
from negprompt_cli.data.encoding.shared_model import answer_model
from negprompt_cli.engine.parallel.rank_calls import LostRank, Message, Team, failure
from negprompt_cli.engine.parallel.sharded_prompts import answer_prompts
from negprompt_cli.errors import NegPromptError

# Imported because it registers its jobs.
from negprompt_cli.steps.shared import local_scores  # noqa: F401


def serve(team: Team) -> None:
    """Answer rank 0's calls until it dismisses the team.

    A `NegPromptError` is sent to rank 0 as an answer; any other error ends this rank.

    Raises:
        LostRank: the connection to rank 0 is lost.
    """
    things: dict[int, Any] = {}
    while True:
        call = team.receive_call()
        for number in call.document["drop"]:
            things.pop(number, None)
        if call.document["call"] == "leave":
            return
        try:
            answer = _answer(team, call, things)
        except LostRank:
            raise
        except (NegPromptError, torch.OutOfMemoryError) as error:
            answer = failure(error)
        if answer is not None:
            team.send(answer, 0)


def _answer(team: Team, call: Message, things: dict[int, Any]) -> Message | None:
    name: str = call.document["call"]
    if name == "images":
        answer_images(team, call, things)
        return None
    if name.startswith("prompts."):
        return answer_prompts(team, call, things)
    return answer_model(team, call, things)
