"""What a person changed in a folder of sorted images: which images were moved by hand, and where to.

Whoever sorts images into id/<class>/ and ood/ (`sorting`) also writes `sorted.jsonl` beside these folders: a line per image
with the folder it was put into, the sha256 of its bytes, its path, and the detector that decided. An image is known again by
its bytes, so names and links do not matter:

    untouched   it is still in a folder that it was put into: only a prediction, which nobody has checked
    corrected   it is in another folder id/<class> than it was put into, or nobody put it there but a person
    foreign     it was moved to ood/ by a person

Only corrected images say what a person knows of ID images.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from negprompt_cli.data.files.digest import file_sha256
from negprompt_cli.data.sets.filekinds import LeftOut
from negprompt_cli.data.sets.layouts import list_entries, list_images
from negprompt_cli.errors import NegPromptError, UsageError, first_fault

RECORD = "sorted.jsonl"


class SortedImage(BaseModel):
    """A line of the record: an image that was put into `folder` ("ood" or "id/<class>") because a detector said so.

    `detector`: path of the detector's file, and `detector_sha256`; both empty where there was none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    folder: str
    sha256: str
    path: str
    detector: str = ""
    detector_sha256: str = ""


def record_sorted(into: Path, images: Iterable[SortedImage]) -> None:
    """Add lines to the record of a folder, before the images are put there.

    Raises:
        NegPromptError: it cannot be written.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        with (into / RECORD).open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(image.model_dump())}\n" for image in images)
    except OSError as error:
        raise NegPromptError(
            f"Cannot write {into / RECORD}: {error.strerror or error}. Choose another folder."
        ) from error


def read_sorted(folder: Path) -> list[SortedImage]:
    """The record of a folder of sorted images, in the order of sorting.

    Raises:
        UsageError: there is none, or a line is not understood.
    """
    path = folder / RECORD
    found = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    found.append(SortedImage.model_validate_json(line))
                except ValidationError as error:
                    raise UsageError(
                        f"{path}, line {number}: {first_fault(error)}. It is not a record of sorting."
                    ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(
            f"{path} cannot be read: {reason}. Without this record, images that a person moved cannot be told from those "
            "that nobody has looked at. Give the folder that the images were sorted into."
        ) from error
    return found


@dataclass(frozen=True)
class Corrections:
    """The images of `folder`, a folder of sorted images, told apart; paths are in order of folder and name.

    `corrected`: images in id/, by the name of the class folder. `foreign`: images that a person moved to ood/. `untouched`:
    number of images where they were put. `unsorted`: images directly in id/, which belong to no class. `detector`: path and
    sha256 of the detector that sorted last.
    """

    folder: Path
    corrected: dict[str, list[Path]]
    foreign: list[Path]
    untouched: int
    unsorted: list[Path]
    detector: tuple[Path, str] | None

    def images(self) -> Iterator[Path]:
        """The absolute paths of the corrected images."""
        return (path.absolute() for paths in self.corrected.values() for path in paths)


def find_corrections(folder: Path) -> Corrections:
    """Compare a folder of sorted images with its record; reads every image.

    Raises:
        UsageError: there is no record.
        NegPromptError: an image cannot be read.
    """
    record = read_sorted(folder)
    put: dict[str, set[str]] = defaultdict(set)
    for image in record:
        put[image.sha256].add(image.folder)
    corrected: dict[str, list[Path]] = {}
    untouched = 0

    def moved(place: str) -> Iterator[Path]:
        nonlocal untouched
        for name in list_images(folder / place, LeftOut()) if (folder / place).is_dir() else []:
            path = folder / place / name
            if place in put.get(_sha256(path), ()):
                untouched += 1
            else:
                yield path

    top = list_entries(folder / "id") if (folder / "id").is_dir() else None
    for name in top.folders if top else []:
        if images := list(moved(f"id/{name}")):
            corrected[name] = images
    foreign = list(moved("ood"))
    last = record[-1] if record and record[-1].detector else None
    return Corrections(
        folder,
        corrected,
        foreign,
        untouched,
        [folder / "id" / name for name in top.images] if top else [],
        (Path(last.detector), last.detector_sha256) if last else None,
    )


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise NegPromptError(f"Cannot read {os.fsdecode(path)}: {error.strerror or error}.") from error
