"""The rank of this process, read from torchrun's environment variables, and the number of usable cores.

The variables RANK and WORLD_SIZE are used only if torchrun set them, because cluster software sets them for other purposes.
Importing this module needs no torch. `rank_calls` has the communication between processes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

TORCHRUN = "TORCHELASTIC_RUN_ID"
"""A variable that only torchrun sets, for the processes it starts."""


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
        """Whether the job has more than one process."""
        return self.size > 1


ALONE = Ranks()
"""A process that is the only one of its job."""


def ranks_from_environment(variables: Mapping[str, str] = os.environ) -> Ranks:
    """Return this process's ranks as set by torchrun, or `ALONE` if torchrun did not start it."""
    if TORCHRUN not in variables:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Ranks(*(int(variables[name]) for name in names))


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
