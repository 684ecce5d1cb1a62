"""The catalogue as a table: known sets, their places on disk, and their sizes."""

from dataclasses import dataclass
from pathlib import Path

from negprompt_cli.data.sets.catalogue import Catalogue
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
        whole = entry.comes_with or (entry.subset.of if entry.subset else None)
        counts = (entry.images.train, entry.images.eval, entry.classes)
        if count:
            counts = _counts(name, data_root, catalogue) if layout else (None, None, None)
        rows.append(
            Row(
                name=name,
                here=bool(layout),
                layout=layout,
                how="download" if entry.download else f"with {whole}" if whole else "by hand",
                train=counts[0],
                eval=counts[1],
                classes=counts[2],
                **entry.model_dump(include={"title", "licence", "citation", "notes"}),
            )
        )
    return rows


def _counts(name: str, data_root: Path, catalogue: Path | None) -> tuple[int | None, int | None, int | None]:
    """Count the training images, evaluation images and classes on disk; None for what is not there."""

    def load(role: Role) -> ImageSet | None:
        try:
            return load_image_set(name, role=role, data_root=data_root, catalogue=catalogue)
        except UsageError:
            return None

    train, evaluation = load("train"), load("eval") or load("ood")
    sizes = [len(images.classes) for images in (evaluation, train) if images]
    return (
        len(train) if train else None,
        len(evaluation) if evaluation else None,
        next((size for size in sizes if size), None),
    )
