"""Return freed memory to the operating system, on a CPU with glibc.

PyTorch allocates CPU tensors with malloc. Chunks of different classes need buffers of slightly different sizes, which
fragment the heap. The process then grows although it uses no more memory (measured: 4000 classes took 1.5 times the
memory of 1000). malloc_trim(3) returns the gaps. With other C libraries this module does nothing. It does not concern
GPUs, where PyTorch has its own allocator.
"""

import ctypes
import functools
import sys
from collections.abc import Callable


def return_free_memory() -> None:
    """Return the gaps between live CPU tensors to the operating system; takes milliseconds per GiB of gaps."""
    trim = _malloc_trim()
    if trim:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
