"""List the images that arguments name: files, folders, globs, and a list on standard input.

Arguments are processed in order:

    folder          its images at any depth, recognised by their suffix: first those directly in it, then those of each
                    subfolder, sorted by name
    glob            its matches, sorted by name; `**` includes subfolders
    file            the file itself, with any suffix
    list            a file with the suffix of a list and without the content of an image: the images it lists, in any form
                    that `image_list` reads; paths are relative to its folder, a folder above it, or the working folder
    container       a tar or Parquet file (`packed`), a pattern with braces for such files, a folder with only such files, or
                    hf:NAME (a Hugging Face dataset): the images in it
    -               a list on standard input: one name per line, or names separated by NUL as `find -print0` writes them

Files and folders made by systems (`filekinds`: @eaDir, Thumbs.db, ._photo.jpg) are left out and counted if a folder, a glob
or a list names them. The same applies to several arguments, because a shell replaces `*` by all names of a folder. If a name
on standard input does not exist, it is tried without quotes, with slashes instead of backslashes, and without a label after
it. Only the names of one folder, glob or list are in memory at a time. No image is opened here: only reading shows whether a
listed file exists.
"""

import codecs
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from negprompt_cli.data.sets import hub_images, parquet_images
from negprompt_cli.data.sets.filekinds import LeftOut, readable_formats, system_name, system_part
from negprompt_cli.data.sets.hub_images import PREFIX, is_saved
from negprompt_cli.data.sets.image_list import LIST_SUFFIXES, parse_line, portable, read_image_list
from negprompt_cli.data.sets.layouts import each_image, found_instead
from negprompt_cli.data.sets.packed import expanded, images_in, images_of_dataset, is_packed_file, packed_files
from negprompt_cli.data.sets.spec import exists
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError

STDIN = "-"
_BLOCK = 1 << 16


def check_paths(arguments: Sequence[str]) -> tuple[Decision, ...]:
    """Check, before any work, that every argument names images.

    Returns:
        Decisions about how lists among the arguments are read.

    Raises:
        UsageError: an argument is empty; a file or folder does not exist; a glob has no matches; a folder has no images; a
            list has an unknown form; or `-` is given twice.
    """
    decisions: list[Decision] = []
    for argument in arguments:
        if not argument.strip():
            raise UsageError("An empty path was given. Give images, folders, lists or globs; . is the working folder.")
        if argument == STDIN:
            if list(arguments).count(STDIN) > 1:
                raise UsageError("Standard input (-) can be read only once.")
        elif (images := _packed(argument, left_out := LeftOut())) is not None:
            if next(images, None) is None:
                raise UsageError(f"No images in {argument}.{found_instead(left_out)}")
            decisions += _columns(argument)
        elif Path(argument).is_dir():
            left_out = LeftOut()
            if not _systems(argument, arguments) and next(each_image(argument, left_out), None) is None:
                raise UsageError(f"No images in {argument}, at any depth.{found_instead(left_out)}")
        elif _is_list(Path(argument)):
            decisions += _listed(Path(argument))[1]
        elif not Path(argument).exists() and next(_matches(argument), None) is None:
            raise UsageError(
                f"{argument}: no such file or folder, and no files match it as a pattern. Give images, folders, quoted "
                "globs such as 'photos/**/*.jpg', or - for a list on standard input."
            )
    return tuple(decisions)


def list_paths(arguments: Sequence[str], lines: Iterable[str], left_out: LeftOut) -> Iterator[Path]:
    """Yield the images that `arguments` name, in order.

    Args:
        arguments: files, folders, globs, or `-` for `lines`.
        lines: the names of a list, for example from `stdin_names`; empty ones are skipped.
        left_out: counts what is not an image or was made by a system, while the paths are listed.
    """
    for argument in arguments:
        path = Path(argument)
        if argument == STDIN:
            yield from _no_systems((_mended(name) for line in lines if (name := line.rstrip("\r\n"))), left_out)
        elif pattern := _systems(argument, arguments):
            left_out.add("system", pattern, argument)
        elif (images := _packed(argument, left_out)) is not None:
            yield from images
        elif path.is_dir():
            yield from (path / name for name in each_image(argument, left_out))
        elif _is_list(path):
            yield from _no_systems(_listed(path)[0], left_out)
        elif path.exists():
            yield path
        else:
            yield from _no_systems((name for name in sorted(_matches(argument)) if not Path(name).is_dir()), left_out)


def stdin_names(stream: BinaryIO) -> Iterator[str]:
    """Yield the names on standard input as they arrive: one per line, or separated by NUL if the first one ends in NUL.

    Bytes that are not UTF-8 are preserved. A byte order mark is removed; UTF-16 is recognised by its mark.
    """
    separator, rest, begun = b"", b"", False
    while block := getattr(stream, "read1", stream.read)(_BLOCK):
        rest += block
        if not begun and len(rest) < len(codecs.BOM_UTF8) and b"\n" not in rest:
            continue
        if not begun and rest.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            yield from (rest + stream.read()).decode("utf-16", errors="replace").split("\n")
            return
        if not begun:
            rest, begun = rest.removeprefix(codecs.BOM_UTF8), True
        separator = separator or (b"\0" if b"\0" in rest else b"\n" if b"\n" in rest else b"")
        if separator:
            *names, rest = rest.split(separator)
            yield from map(os.fsdecode, names)
    if rest:
        yield os.fsdecode(rest)


def _mended(name: str) -> str:
    """Return a listed name: unchanged if it exists, else without quotes, with slashes or without its label."""
    if exists(Path(name)):
        return name
    changed = portable(parse_line(name.strip()).path)
    return changed if exists(Path(changed)) else name


def _is_list(path: Path) -> bool:
    """Whether a file has the suffix of a list and not the content of an image."""
    if path.suffix.lower() not in LIST_SUFFIXES or not path.is_file():
        return False
    try:
        with Image.open(path, formats=readable_formats("")):
            return False
    except Exception:  # Pillow raises errors of any type for files that are not images.
        return True


def _listed(path: Path) -> tuple[list[str], tuple[Decision, ...]]:
    """Return the images that a list names, and decisions."""
    # Only lists need it, and importing it takes a while.
    from negprompt_cli.data.sets.list_places import place_images

    listed = read_image_list(path)
    folder, lines, decisions = place_images(listed, listed.lines, data_root=Path())
    here = Path.cwd()
    folder = folder.relative_to(here) if folder.is_relative_to(here) and not path.is_absolute() else folder
    return [str(folder / line.path) for line in lines], (*listed.decisions, *decisions)


def _systems(argument: str, arguments: Sequence[str]) -> str:
    """Return the pattern that marks one of several arguments as made by a system; empty if there is none."""
    path = Path(argument)
    return system_name(path.name, folder=path.is_dir()) if len(arguments) > 1 else ""


def _packed(argument: str, left_out: LeftOut) -> Iterator[Path] | None:
    """Return the images of container files or of a dataset; None if the argument names something else."""
    if dataset := _dataset(argument):
        return images_of_dataset(dataset)
    files = _files(argument)
    return (image for file in files for image in images_in(file, left_out)) if files else None


def _dataset(argument: str) -> str:
    """The Hugging Face dataset that an argument names, or nothing."""
    path = Path(argument)
    if argument.startswith(PREFIX) and not exists(path):
        return argument
    return f"{PREFIX}{argument}" if path.is_dir() and is_saved(path) else ""


def _files(argument: str) -> list[Path]:
    """Return the container files that an argument names."""
    path = Path(argument)
    return packed_files(path) if path.is_dir() else [path] if is_packed_file(path) else expanded(argument)


def _columns(argument: str) -> list[Decision]:
    """Return decisions about the image column of a dataset or of Parquet files, if there are several."""
    if dataset := _dataset(argument):
        name, split = hub_images.taken_apart(dataset)
        return hub_images.columns(name, split or hub_images.splits(name)[0]).decisions(labels=False)
    file = _files(argument)[0]
    return (
        parquet_images.columns(file).decisions(labels=False) if file.suffix.lower() in parquet_images.SUFFIXES else []
    )


def _no_systems(names: Iterable[str], left_out: LeftOut) -> Iterator[Path]:
    for name in names:
        if pattern := system_part(name.replace(os.sep, "/")):
            left_out.add("system", pattern, name)
        elif is_packed_file(path := Path(name)):
            yield from images_in(path, left_out)
        else:
            yield path


def _matches(pattern: str) -> Iterator[str]:
    return glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
