"""Find files with equal content, independent of their names.

Only files of equal size are read. Images inside a torchvision set are not separate files and never match.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from negprompt_cli.data.files.digest import file_sha256
from negprompt_cli.data.sets.packed import is_item
from negprompt_cli.errors import NegPromptError


def same_content(paths: Sequence[Path], others: Sequence[Path]) -> NDArray[np.bool_]:
    """Find which of n files have the same bytes as any of m others.

    Args:
        paths: n files.
        others: m files.

    Returns:
        (n,) whether such another file exists.

    Raises:
        NegPromptError: a file cannot be read.
    """
    found = np.zeros(len(paths), dtype=bool)
    by_size: dict[int, list[Path]] = defaultdict(list)
    try:
        for path in others:
            if not is_item(path):
                by_size[path.stat().st_size].append(path)
        digests: dict[int, set[str]] = {}
        for i, path in enumerate(paths):
            if is_item(path) or (size := path.stat().st_size) not in by_size:
                continue
            if size not in digests:
                digests[size] = {file_sha256(other) for other in by_size[size]}
            found[i] = file_sha256(path) in digests[size]
    except OSError as error:
        raise NegPromptError(f"Cannot read {os.fsdecode(error.filename)}: {error.strerror or error}.") from error
    return found
