"""The catalogue as a table: known sets, their places on disk, and their sizes."""

from dataclasses import dataclass, replace
from pathlib import Path

from negprompt_cli.data.sets.catalogue import Catalogue, Entry
from negprompt_cli.data.sets.imagesets import ImageSet, load_image_set
from negprompt_cli.data.sets.layouts import Role
from negprompt_cli.data.sets.sources import locate
from negprompt_cli.errors import UsageError

_ROLES: tuple[Role, ...] = ("eval", "ood", "train")


@dataclass(frozen=True)
class Row:
    """One data set. Counts are the published ones, or those on disk if counting was requested."""

    name: str
    title: str
    here: bool
    layout: str
    """The layout recognised on disk, or empty."""
    how: str
    """How to get a set that is not on disk: download, by hand, or with another set that contains it."""
    train: int | None
    eval: int | None
    classes: int | None
    licence: str | None
    citation: str | None
    notes: str | None


def list_sets(sets: Catalogue, data_root: Path, *, catalogue: Path | None = None, count: bool = False) -> list[Row]:
    """Return one row per catalogue set, in the order of the catalogue.

    Args:
        sets: the catalogue.
        data_root: folder of the sets.
        catalogue: the file that `sets` was loaded from.
        count: count the images on disk; this takes about a second per hundred thousand.
    """
    rows = []
    found: dict[str, str] = {}
    for name, entry in sets.sets.items():
        if entry.subset is not None and not entry.layouts and entry.subset.of in found:
            layout = found[entry.subset.of]
        else:
            tries = (locate(name, role, data_root, sets) for role in _ROLES)
            layout = next((text for text in tries if text), "")
        found[name] = layout
        row = _published(name, entry, layout)
        if count:
            row = _counted(row, data_root, catalogue)
        rows.append(row)
    return rows


def _published(name: str, entry: Entry, layout: str) -> Row:
    whole = entry.comes_with or (entry.subset.of if entry.subset else None)
    how = "download" if entry.download else f"with {whole}" if whole else "by hand"
    return Row(
        name=name,
        title=entry.title,
        here=bool(layout),
        layout=layout,
        how=how,
        train=entry.images.train,
        eval=entry.images.eval,
        classes=entry.classes,
        licence=entry.licence,
        citation=entry.citation,
        notes=entry.notes,
    )


def _counted(row: Row, data_root: Path, catalogue: Path | None) -> Row:
    """Return the row with counts of the images on disk instead of the published ones."""

    def load(role: Role) -> ImageSet | None:
        try:
            return load_image_set(row.name, role=role, data_root=data_root, catalogue=catalogue)
        except UsageError:
            return None

    train = load("train") if row.here else None
    evaluation = (load("eval") or load("ood")) if row.here else None
    sizes = [len(images.classes) for images in (evaluation, train) if images]
    return replace(
        row,
        train=len(train) if train else None,
        eval=len(evaluation) if evaluation else None,
        classes=next((size for size in sizes if size), None),
    )
