"""The images that files, folders, globs and a list on standard input name, one after the other.

Arguments are taken in their order. A folder stands for its images at any depth, told by their suffix: those directly in it
first, then those of each subfolder, by name. A glob (`**` goes into subfolders) is sorted by name. A file is taken as it
is, whatever its suffix. Files and folders that systems make (`filekinds`: @eaDir, Thumbs.db, ._photo.jpg) are left out and
counted where a folder, a glob or a list names them, and among several arguments, because a shell puts all names of a folder
there for `*`. Names of one folder, or of one glob, are all that is held at a time.

Leaves out: opening anything; a listed file that is not there is found out when it is read.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from negprompt_cli.data.sets.filekinds import LeftOut, in_system_folder, is_system_name
from negprompt_cli.data.sets.layouts import found_instead, list_entries
from negprompt_cli.errors import UsageError

STDIN = "-"


def check_paths(arguments: Sequence[str]) -> None:
    """Refuse arguments that name nothing, before any work.

    Raises:
        UsageError: no such file or folder, a glob without matches, a folder without images, or `-` twice.
    """
    for argument in arguments:
        if argument == STDIN:
            if list(arguments).count(STDIN) > 1:
                raise UsageError("Standard input (-) can be read only once.")
        elif Path(argument).is_dir():
            left_out = LeftOut()
            if not _is_systems(argument, arguments) and next(_walk(Path(argument), (), left_out), None) is None:
                raise UsageError(f"No images in {argument}, at any depth.{found_instead(left_out)}")
        elif not Path(argument).exists() and next(_matches(argument), None) is None:
            raise UsageError(
                f"{argument}: no such file or folder, and no files match it as a pattern. Give images, folders, quoted "
                "globs such as 'photos/**/*.jpg', or - for a list on standard input."
            )


def list_paths(arguments: Sequence[str], lines: Iterable[str], left_out: LeftOut) -> Iterator[Path]:
    """The images that `arguments` name, in order.

    Args:
        arguments: files, folders, globs, or `-` for `lines`.
        lines: a list of files, one per line; empty lines are skipped.
        left_out: what is no image, or is made by a system, is counted here as the paths are taken.
    """
    for argument in arguments:
        path = Path(argument)
        if argument == STDIN:
            yield from _no_systems((name for line in lines if (name := line.rstrip("\r\n"))), left_out)
        elif _is_systems(argument, arguments):
            left_out.add("system", path.name, argument)
        elif path.is_dir():
            yield from _walk(path, (), left_out)
        elif path.exists():
            yield path
        else:
            yield from _no_systems((name for name in sorted(_matches(argument)) if not Path(name).is_dir()), left_out)


def _is_systems(argument: str, arguments: Sequence[str]) -> bool:
    """Whether an argument among others names what a system made."""
    path = Path(argument)
    return len(arguments) > 1 and is_system_name(path.name, folder=path.is_dir())


def _no_systems(names: Iterable[str], left_out: LeftOut) -> Iterator[Path]:
    for name in names:
        if in_system_folder(name.replace(os.sep, "/")):
            left_out.add("system", Path(name).name, name)
        else:
            yield Path(name)


def _matches(pattern: str) -> Iterator[str]:
    return glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns


def _walk(folder: Path, above: tuple[str, ...], left_out: LeftOut) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # a link back to a folder above would never end
        return
    images, folders, others = list_entries(folder)
    left_out.update(others)
    yield from (folder / name for name in images)
    for name in folders:
        yield from _walk(folder / name, (*above, real), left_out)
