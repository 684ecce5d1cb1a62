"""Find the images of a list on this computer.

A list may come from another computer or operating system. Each path is therefore tried unchanged, with slashes instead of
backslashes, with the suffix of the only file with that stem, and without leading folders that do not exist here.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from negprompt_cli.data.sets.filekinds import is_folder, is_image_name
from negprompt_cli.data.sets.image_list import portable
from negprompt_cli.data.sets.image_records import FORMS, ImageList, Line
from negprompt_cli.data.sets.packed import item_exists
from negprompt_cli.data.sets.spec import exists
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

_PARENTS = 3  # Number of folders above a list that its paths may be relative to.
_BESIDE = 50  # Largest number of folders beside a list that are searched.
_LOOK = 20  # Largest number of images that are searched until one is found.


def place_images(
    listed: ImageList,
    lines: Sequence[Line],
    *,
    data_root: Path,
    prefixes: Sequence[str] = (),
    root: Path | None = None,
) -> tuple[Path, list[Line], list[Decision]]:
    """Find the folder that the paths of a list are relative to, and the paths on this computer.

    The folders searched are the list's own, those above it, the data root, `prefixes` below the data root, and those beside
    the list. The first folder that has one of the first images is used.

    Args:
        listed: the list.
        lines: the lines to find images for.
        data_root: folder of the catalogue's sets.
        prefixes: more folders below the data root.
        root: the folder, if it is known.

    Returns:
        The folder, the lines with their paths relative to it, and decisions.

    Raises:
        UsageError: no image is found; the message lists the places where the first was searched.
    """
    file = Path(listed.source)
    folders = [root] if root else list(_folders(file, listed.below, data_root, prefixes))
    lines = [line if (path := _tidy(line.path)) == line.path else replace(line, path=path) for line in lines]
    look = [line.path for line in lines[:_LOOK]]
    ways: list[Callable[[Path, str], str]] = [lambda _, path: path, lambda _, path: portable(path), _Stems().path]
    for way in ways:
        for folder in folders:
            found = next((path for path in look if _there(folder / way(folder, path))), None)
            if found is None:
                continue
            missing = [path for path in look if not _there(folder / way(folder, path))]
            missed = []
            if missing:
                text = (
                    f"{len(missing)} of the first {len(look)} images of {file} are not below {folder}; the first is "
                    f"{missing[0][:200]!r}."
                )
                missed = [Decision("list-form", text, {"file": str(file), "missing": missing}, warning=True)]
            if way is ways[0]:
                return folder, lines, missed
            changed = [replace(line, path=way(folder, line.path)) for line in lines]
            text = f"Paths of {file} such as {found!r} were read as {way(folder, found)!r}."
            return folder, changed, [Decision("list-form", text, {"file": str(file), "example": found}), *missed]
    for folder in folders:
        if (prefix := _moved(folder, [portable(line.path) for line in lines])) is not None:
            changed = [replace(line, path=portable(line.path)[len(prefix) :]) for line in lines]
            text = f"The images of {file} are not in {prefix}, but were found below {folder}."
            facts = {"file": str(file), "instead_of": prefix}
            return folder, changed, [Decision("list-form", text, facts, warning=True)]
    others = some_of([str(folder) for folder in folders[1:]], 4)
    first = folders[0] / look[0][:200]
    forms = "" if is_image_name(PurePosixPath(portable(look[0])).name) else f" Supported forms of image lists: {FORMS}."
    raise UsageError(
        f"{file} was read as {listed.form}, but its first image was not found: it is not {first}"
        f"{f', nor below {others}' if others else ''}. Write paths relative to one of these folders.{forms}"
    )


def _folders(file: Path, below: str, data_root: Path, prefixes: Sequence[str]) -> Iterator[Path]:
    parent = file.absolute().parent
    usual = [*([parent / below] if below else []), parent, *list(parent.parents)[:_PARENTS], data_root]
    usual += [data_root / prefix for prefix in prefixes]
    try:
        with os.scandir(parent) as entries:
            beside = sorted(entry.name for entry in entries if is_folder(entry) and not entry.name.startswith("."))
    except OSError:  # The list may be readable although its folder is not.
        beside = []
    yield from dict.fromkeys([*usual, *(parent / name for name in beside[:_BESIDE])])


def _tidy(path: str) -> str:
    """Remove empty parts and dots from a path, so that each image has only one path."""
    path = portable(path) if path.startswith("file://") else path
    return PurePosixPath(path).as_posix() if path.startswith("./") or "//" in path or "/./" in path else path


def one_path(folder: Path, path: str) -> str:
    """Return the normal form of a path, so that an image has only one: without `..`, relative to `folder` if below it."""
    up = ".." in path.split("/")
    if not path.startswith("/") and not up:
        return path
    plain = Path(os.path.normpath(folder.absolute() / path))
    if up and os.path.realpath(plain) != os.path.realpath(folder / path):  # After a link, .. leaves the link's target.
        return path
    return plain.relative_to(folder.absolute()).as_posix() if plain.is_relative_to(folder.absolute()) else str(plain)


def _there(path: Path) -> bool:
    return exists(path) or item_exists(path)


class _Stems:
    """Finds images by their names without the suffix; each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def path(self, folder: Path, path: str) -> str:
        """Return the path with the suffix of the only image with its stem; unchanged if there is none or several."""
        where = PurePosixPath(portable(path))
        if not where.name or is_image_name(where.name):
            return portable(path)
        names = self._listed(folder / where.parent).get(where.name, ())
        return str(where.with_name(names[0])) if len(names) == 1 else portable(path)

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._folders:
            stems = self._folders[folder] = {}
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if is_image_name(entry.name):
                            stems.setdefault(entry.name[: entry.name.rindex(".")], []).append(entry.name)
            except (OSError, ValueError):  # The folder does not exist.
                pass
        return self._folders[folder]


def _moved(folder: Path, paths: Sequence[str]) -> str | None:
    """Return the leading folders that all paths share and without which they exist; at least a folder and a name remain."""
    parts = paths[0].split("/")
    for n in range(1, len(parts) - 1):
        prefix = "/".join(parts[:n]) + "/"
        if not all(path.startswith(prefix) for path in paths):
            return None
        if _there(folder / paths[0][len(prefix) :]):
            return prefix
    return None
