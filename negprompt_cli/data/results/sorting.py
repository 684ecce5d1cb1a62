"""Sort judged images into the folders id/<class>/ and ood/, as links or copies; the original images do not change.

Class folders have the names of class keys, made safe for file systems. If another image has the same name, eight digits of
the path's digest are added, so sorting the same images again changes nothing. A record lists where each image was put, so
that images that a user moves can be recognised (`corrections`). Images inside a container (`packed`) are always copied,
because they cannot be linked.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePath

from PIL import Image

from negprompt_cli.data.files.atomic import atomic_path, atomic_write_bytes
from negprompt_cli.data.files.digest import file_sha256
from negprompt_cli.data.results.corrections import SortedImage, record_sorted
from negprompt_cli.data.results.rowfile import Row
from negprompt_cli.data.sets.filekinds import is_image_name, reason_for
from negprompt_cli.data.sets.packed import item_content
from negprompt_cli.errors import NegPromptError


def sort_rows(
    rows: Sequence[Row], into: Path, *, copy: bool, detector: tuple[Path, str] | None, threshold: float | None
) -> None:
    """Sort the images of rows that have a prediction, and record it.

    Args:
        rows: rows of image files.
        into: folder with id/, ood/ and the record.
        copy: as for `sort_image`.
        detector: path and sha256 of the detector, or None if it has no file.
        threshold: the threshold that decided, for the record.

    Raises:
        NegPromptError: an image cannot be read or written.
    """
    judged = [(Path(row.path), row.prediction, bool(row.is_ood)) for row in rows if row.prediction is not None]
    path, digest = detector or ("", "")
    record = []
    for image, prediction, is_ood in judged:
        try:
            inside = item_content(image)
            own = file_sha256(image) if inside is None else hashlib.sha256(inside[0]).hexdigest()
        except OSError as error:
            raise NegPromptError(f"Cannot read {image}: {error.strerror or error}.") from error
        folder = "ood" if is_ood else f"id/{folder_name(prediction)}"
        record.append(
            SortedImage(
                folder=folder,
                sha256=own,
                path=str(image.absolute()),
                detector=str(Path(path).absolute()) if path else "",
                detector_sha256=digest,
                threshold=threshold,
            )
        )
    record_sorted(into, record)
    for image, prediction, is_ood in judged:
        sort_image(image, into, prediction=prediction, is_ood=is_ood, copy=copy)


def sort_image(path: Path, into: Path, *, prediction: str, is_ood: bool, copy: bool) -> Path:
    """Link or copy one image into its folder, and return the new path.

    Args:
        path: the image.
        into: folder with id/ and ood/.
        prediction: key of its class.
        is_ood: whether to put it into ood/.
        copy: copy the file instead of making a symbolic link to its absolute path.

    Raises:
        NegPromptError: the image cannot be linked or copied.
    """
    folder = into / "ood" if is_ood else into / "id" / folder_name(prediction)
    source = path.absolute()
    try:
        content = item_content(path)
        name = path.name if content is None else _file_name(path, *content)
        place = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place) and not _same(place, source):
            digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:8]
            place = place.with_stem(f"{place.stem}-{digest}")
        if os.path.lexists(place):
            return place
        if content is not None:
            atomic_write_bytes(place, content[0])
        elif copy:
            with atomic_path(place) as temporary:
                shutil.copy2(source, temporary)
        else:
            place.symlink_to(source)
    except OSError as error:
        raise NegPromptError(
            f"Cannot put {path} into {folder}: {error.strerror or error}. Choose another folder.", remedy="copy"
        ) from error
    return place


def _file_name(path: Path, data: bytes, name: str) -> str:
    """Return a file name for an image inside a container; rows have numbers, and their suffix comes from name or content."""
    if is_image_name(path.name):
        return path.name
    suffix = PurePath(name).suffix
    if not suffix:
        with Image.open(BytesIO(data)) as image:
            suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(str(image.format), f".{str(image.format).lower()}")
    return f"{path.name}{suffix}"


def folder_name(key: str) -> str:
    """Return a class key as a valid folder name: without separators or a leading dot, and not that of a system folder."""
    name = re.sub(r"[/\\\x00-\x1f]", "_", key).strip() or "_"
    name = "_" + name[1:] if name.startswith(".") else name
    return f"{name}_" if reason_for(name, folder=True) else name


def _same(place: Path, source: Path) -> bool:
    if place.is_symlink():
        return place.readlink() == source
    if (content := item_content(source)) is not None:
        return place.read_bytes() == content[0]
    there, here = place.stat(), source.stat()
    return (there.st_size, there.st_mtime_ns) == (here.st_size, here.st_mtime_ns)
