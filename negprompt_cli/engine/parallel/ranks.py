"""Which process of a job this one is, as torchrun says in the environment, and which cores there are.

Only torchrun's own processes count: cluster software sets RANK and WORLD_SIZE for reasons of its own. Importing this
needs no torch. Leaves out: how the processes talk (see `rank_calls`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

TORCHRUN = "TORCHELASTIC_RUN_ID"
"""The variable that torchrun, and nothing else, sets for the processes it starts."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job.

    `rank`: 0 to `size` - 1 over all machines; rank 0 runs the command. `local_rank`: 0 to `local_size` - 1 on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def several(self) -> bool:
        """Whether there are other processes at all."""
        return self.size > 1


ALONE = Ranks()
"""The only process of its job."""


def ranks_from_environment(variables: Mapping[str, str] = os.environ) -> Ranks:
    """This process as torchrun describes it, or `ALONE` where torchrun did not start it."""
    if TORCHRUN not in variables:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Ranks(*(int(variables[name]) for name in names))


def usable_cores() -> int:
    """Cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
