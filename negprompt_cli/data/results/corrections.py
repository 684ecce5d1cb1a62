"""Find the images that a user moved in a folder of sorted images.

`sorting` puts images into id/<class>/ and ood/, and writes `sorted.jsonl` beside these folders: one line per image with its
folder, the sha256 of its bytes, its path, and the detector that decided. The bytes identify an image, so names and links do
not matter:

    untouched      it is still in a folder where a detector put it: this is only an unchecked prediction
    corrected      a user moved it to a folder id/<class>, or added it there
    moved_to_ood   a user moved it to ood/

Only corrected images are reliable ID images.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from negprompt_cli.data.files.digest import file_sha256
from negprompt_cli.data.sets.filekinds import LeftOut
from negprompt_cli.data.sets.layouts import list_entries, list_images
from negprompt_cli.errors import NegPromptError, UsageError

RECORD = "sorted.jsonl"


@dataclass(frozen=True)
class SortedImage:
    """A line of the record: an image that a detector put into `folder` ("ood" or "id/<class>").

    `detector`: path of the detector's file; `detector_sha256`: its digest; both are empty if there was no file. `threshold`:
    the one that decided; None if a false discovery rate did.
    """

    folder: str
    sha256: str
    path: str
    detector: str = ""
    detector_sha256: str = ""
    threshold: float | None = None


def record_sorted(into: Path, images: Iterable[SortedImage]) -> None:
    """Add lines to the record of a folder, before the images are put there.

    Raises:
        NegPromptError: the record cannot be written.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        with (into / RECORD).open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(asdict(image))}\n" for image in images)
    except OSError as error:
        raise NegPromptError(
            f"Cannot write {into / RECORD}: {error.strerror or error}. Choose another folder."
        ) from error


def read_sorted(folder: Path) -> list[SortedImage]:
    """Read the record of a folder of sorted images, in the order of sorting.

    Raises:
        UsageError: the record does not exist, or a line is invalid.
    """
    path = folder / RECORD
    found = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    found.append(SortedImage(**json.loads(line)))
                except (TypeError, ValueError, RecursionError):
                    raise UsageError(f"{path}, line {number} is not a record of sorting.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(
            f"{path} cannot be read: {reason}. Without this record it is unknown which images you have moved. Give the "
            "folder into which the images were sorted."
        ) from error
    return found


@dataclass(frozen=True)
class Corrections:
    """The images of `folder`, a folder of sorted images, by what a user did; paths are sorted by folder and name.

    `corrected`: images that a user put into id/, by class folder. `moved_to_ood`: images that a user moved to ood/.
    `untouched`: number of images that were not moved. `unsorted`: images directly in id/, which belong to no class.
    `detector`: path and sha256 of the detector that sorted last.
    """

    folder: Path
    corrected: dict[str, list[Path]]
    moved_to_ood: list[Path]
    untouched: int
    unsorted: list[Path]
    detector: tuple[Path, str] | None

    def images(self) -> Iterator[Path]:
        """Yield the absolute paths of the corrected images."""
        return (path.absolute() for paths in self.corrected.values() for path in paths)


def find_corrections(folder: Path) -> Corrections:
    """Compare a folder of sorted images with its record; reads every image.

    Raises:
        UsageError: the record does not exist or is invalid.
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
    moved_to_ood = list(moved("ood"))
    last = record[-1] if record and record[-1].detector else None
    return Corrections(
        folder,
        corrected,
        moved_to_ood,
        untouched,
        [folder / "id" / name for name in top.images] if top else [],
        (Path(last.detector), last.detector_sha256) if last else None,
    )


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise NegPromptError(f"Cannot read {os.fsdecode(path)}: {error.strerror or error}.") from error
