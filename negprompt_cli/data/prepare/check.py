"""Check a data set before results on it are trusted.

Problems mean that the set should not be used unchanged: counts differ from the catalogue; classes have no images; files are
empty, missing, broken or truncated; values do not fit their type; files are identical; class names are not words or belong
to several classes; ID classes or ID images also occur in the OOD set. Warnings are about things that may be intended: photos
with an EXIF rotation (which is not applied), transparency, several frames, a single colour, files that are left out, and
those of them with the content of an image. Warnings also include known facts about the set.

Images are decoded by `pixels.to_rgb`, exactly as other commands read them. Identical files are found by content, among files
of equal size. Near-duplicates and doubtful labels need features (see `steps.data_check`).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image

from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.encoding.images import BrokenImage, DoubtfulImage, opened
from negprompt_cli.data.encoding.pixels import is_transparent, orientation, to_rgb
from negprompt_cli.data.files.digest import file_sha256
from negprompt_cli.data.sets.catalogue import Entry, load_catalogue
from negprompt_cli.data.sets.classnames import ClassLabel, is_wnid
from negprompt_cli.data.sets.imagesets import EmptyClasses, ImageSet, load_image_set
from negprompt_cli.data.sets.matching import fold
from negprompt_cli.data.sets.packed import is_item
from negprompt_cli.data.sets.spec import Spec, parse_spec
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError, first_line
from negprompt_cli.progress import Progress
from negprompt_cli.wording import some_of


@dataclass(frozen=True)
class Finding:
    """A problem or a warning, and the files or names that it concerns."""

    level: Literal["problem", "warning"]
    kind: str
    """A fixed word for scripts: count, empty-class, empty-file, broken, duplicate, class-name, overlap, ..."""
    message: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """The images of one role."""

    role: str
    images: int
    classes: int
    expected_images: int | None
    left_out: dict[str, dict[str, int]]
    """Counts of files in its folders that are not used, by reason (`filekinds`) and by name or suffix."""


@dataclass(frozen=True)
class Report:
    """The results of a check."""

    spec: str
    name: str
    layout: str
    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]
    decoded: int
    """Number of decoded images."""
    decisions: tuple[Decision, ...] = ()
    """Decisions made while listing the images; the findings include them too."""
    classes: tuple[ClassLabel, ...] = ()
    """The classes of all parts, with keys and names."""

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings because of which the set should not be used unchanged."""
        return tuple(f for f in self.findings if f.level == "problem")


@dataclass
class _Found:
    findings: list[Finding] = field(default_factory=list)

    def problem(self, kind: str, message: str, items: Iterable[str] = ()) -> None:
        self.findings.append(Finding("problem", kind, message, tuple(items)))

    def warning(self, kind: str, message: str, items: Iterable[str] = ()) -> None:
        self.findings.append(Finding("warning", kind, message, tuple(items)))


def check_data(
    spec: Spec | str,
    *,
    data_root: Path,
    ood: Sequence[Spec | str] = (),
    catalogue: Path | None = None,
    class_names: Path | None = None,
    limit: int | None = None,
    decode: bool = True,
    workers: int = 4,
    pixels: PixelsConfig = PixelsConfig(),  # noqa: B008 - it is frozen
    progress: Progress,
) -> Report:
    """Check the training and evaluation images of a SPEC, and their overlap with OOD sets.

    Args:
        spec: the data set.
        data_root: folder of the catalogue's sets.
        ood: SPECs of OOD sets; their class names and files are compared.
        catalogue: the user's own catalogue file.
        class_names: file of class names.
        limit: largest number of images to decode per part, with balanced classes; the other checks use all images.
        decode: whether to decode images.
        workers: number of threads that read and decode.
        pixels: how values become RGB.
        progress: receives progress messages.

    Raises:
        UsageError: the set cannot be found or has no images.
    """
    found = _Found()
    options: dict[str, Any] = {"data_root": data_root, "catalogue": catalogue, "class_names": class_names}
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    entry = _entry(spec, data_root, catalogue)
    sets = _parts(spec, options, found)
    parts = tuple(_count(images, role, entry, found) for role, images in sets.items())
    main = list(sets.values())[-1]
    misnamed: dict[str, None] = {}
    for role, images in sets.items():
        for decision in images.decisions:
            found.warning("other-file" if decision.facts.get("reasons") else "note", f"{role}: {decision}")
        misnamed |= dict.fromkeys(images.left_out.misnamed())
    if misnamed:
        found.warning("misnamed", f"{len(misnamed)} kinds of files are left out although they are images", misnamed)
    _check_classes(main.classes, found)
    if entry is not None and entry.notes:
        found.warning("note", entry.notes)
    files = {role: _sized(images, found) for role, images in sets.items()}
    with ThreadPoolExecutor(workers) as pool:
        decoded = (
            sum(_decode(images, limit, pixels, found, pool, progress) for images in sets.values()) if decode else 0
        )
        _duplicates(files, found, pool)
        for other in ood:
            other_set = load_image_set(other, role="ood", data_root=data_root, catalogue=catalogue)
            _overlap(
                list(sets.values()), [file for listed in files.values() for file in listed], other_set, found, pool
            )
    decisions = tuple(decision for images in sets.values() for decision in images.decisions)
    return Report(main.spec, main.name, main.layout, parts, tuple(found.findings), decoded, decisions, main.classes)


def image_parts(
    spec: Spec | str,
    *,
    data_root: Path,
    catalogue: Path | None = None,
    class_names: Path | None = None,
    limit: int | None = None,
) -> dict[str, ImageSet]:
    """Return the images that `check_data` checks, by role: "train", "eval" or both, else "all"; arguments as there.

    Raises:
        UsageError: the set cannot be found or has no images.
    """
    options = {"data_root": data_root, "catalogue": catalogue, "class_names": class_names}
    parts = _parts(parse_spec(spec) if isinstance(spec, str) else spec, options, _Found())
    return {role: images.limited(limit, seed=0) for role, images in parts.items()}


def _entry(spec: Spec, data_root: Path, catalogue: Path | None) -> Entry | None:
    """Return the catalogue entry whose counts apply; None without one, or if classes are selected."""
    return None if spec.selector else load_catalogue(data_root, catalogue).sets.get(spec.base.lower())


def _parts(spec: Spec, options: dict[str, Any], found: _Found) -> dict[str, ImageSet]:
    """Return the images by role: "train", "eval" or both if they are separate, else "all"."""
    everything = load_image_set(spec, role="ood", **options)
    if not everything.classes:
        return {"all": everything}
    try:
        train = load_image_set(spec, role="train", **options)
    except EmptyClasses as error:
        found.problem("empty-class", str(error))
        return {"all": everything}
    except UsageError as error:
        found.warning("no-training-images", first_line(error))
        return {"eval": everything}
    if train.halved:
        doubts = (decision for decision in train.decisions if decision.kind == "layout")
        decisions = dict.fromkeys((*everything.decisions, *doubts))
        return {"all": replace(everything, decisions=tuple(decisions))}
    same = train.root == everything.root and list(train.paths.relatives()) == list(everything.paths.relatives())
    return {"train": train} if same else {"train": train, "eval": everything}


def _count(images: ImageSet, role: str, entry: Entry | None, found: _Found) -> Part:
    expected = None
    if entry is not None:
        expected = entry.images.train if role == "train" else entry.images.eval
        counts = {layout.count for layout in entry.layouts if images.layout.startswith(f"{layout.by} layout: list ")}
        expected = next((count for count in counts if count), expected)
        if expected is not None and expected != len(images):
            found.problem("count", f"{role}: {len(images)} images, expected {expected}")
        if entry.classes is not None and images.classes and entry.classes != len(images.classes):
            found.problem("count", f"{role}: {len(images.classes)} classes, expected {entry.classes}")
    per_class = Counter(images.labels.tolist())
    empty = [c.key for i, c in enumerate(images.classes) if per_class[i] == 0]
    if empty:
        found.problem("empty-class", f"{role}: {len(empty)} classes have no images: {some_of(empty)}", empty)
    return Part(role, len(images), len(images.classes), expected, images.left_out.by_reason())


def _check_classes(classes: Sequence[ClassLabel], found: _Found) -> None:
    by_name: dict[str, list[ClassLabel]] = defaultdict(list)
    for label in classes:
        by_name[fold(label.name)].append(label)
    for same in by_name.values():
        if len(same) > 1:
            keys = [label.key for label in same]
            message = f"{len(same)} classes are called {same[0].name!r}: {', '.join(keys)}"
            if all(label.wnid for label in same):
                found.warning("class-name", f"{message} (their wnids differ, but their prompts are the same)", keys)
            else:
                found.problem("class-name", f"{message}. Rename the folders, or name the classes in a file", keys)
    bare = [c.key for c in classes if is_wnid(c.name) or not re.search(r"[^\W\d_]{2}", c.name)]
    if bare:
        message = f"{len(bare)} class names are not words that a text encoder knows: {some_of(bare)}"
        found.problem("class-name", f"{message}. Rename the folders, or name the classes in a file", bare)


def _sized(images: ImageSet, found: _Found) -> list[tuple[str, int]]:
    """Return path and size of the files of a part that are not empty; report the others."""
    files: list[tuple[str, int]] = []
    missing: list[str] = []
    for path in images.paths:
        if not is_item(path):
            try:
                files.append((str(path), path.stat().st_size))
            except OSError:
                missing.append(str(path))
    empty = [path for path, size in files if not size]
    if missing:
        found.problem("missing", f"{len(missing)} listed files do not exist", missing)
    if empty:
        found.problem("empty-file", f"{len(empty)} files are empty (zero bytes)", empty)
    return [(path, size) for path, size in files if size]


def _decode(
    images: ImageSet,
    limit: int | None,
    pixels: PixelsConfig,
    found: _Found,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> int:
    """Decode the images exactly as other commands read them; return how many were tried."""
    chosen = images.limited(limit, seed=0)
    faults: dict[str, list[tuple[str, str]]] = defaultdict(list)
    remarks: dict[str, list[str]] = defaultdict(list)
    with progress.task(f"Decoding images of {images.name}", len(chosen), "images") as task:
        for seen in pool.map(partial(_look, pixels=pixels), chosen.paths, chunksize=64):
            if seen.fault:
                faults[seen.fault].append((str(seen.path), seen.reason))
            for kind in seen.remarks:
                remarks[kind].append(str(seen.path))
            task.advance()
    for kind, named in faults.items():
        first = f"{len(named)} images {_FAULTS[kind]}. The first one: {named[0][1]}"
        found.problem(kind, first, [path for path, _ in named])
    for kind, paths in remarks.items():
        found.warning(kind, f"{len(paths)} images {_REMARKS[kind]}", paths)
    return len(chosen)


_FAULTS = {"broken": "cannot be read", "values": "have values that do not fit their type"}
_REMARKS = {
    "exif-rotation": "have an EXIF rotation, which is not applied; rotate them on disk, or set model.pixels.orientation",
    "transparency": "are partly transparent, which is ignored; set model.pixels.alpha to put them on white or black",
    "frames": "have several frames or pages; only the first is read",
    "plain": "have a single colour or are almost black; a wrong range of values or ignored transparency may be the reason",
}
_ALMOST_BLACK = 15


@dataclass(frozen=True)
class _Seen:
    """The result of decoding one image: the error, if there is one, and remarks."""

    path: Path
    fault: str = ""
    reason: str = ""
    remarks: tuple[str, ...] = ()


def _look(path: Path, pixels: PixelsConfig) -> _Seen:
    if not is_item(path) and (not path.is_file() or path.stat().st_size == 0):
        return _Seen(path)  # This was reported already.
    try:
        with opened(path) as image:
            rgb = to_rgb(image, pixels)
            return _Seen(path, remarks=tuple(_remarks(image, rgb)))
    except DoubtfulImage as error:
        return _Seen(path, "values", str(error))
    except BrokenImage as error:
        return _Seen(path, "broken", str(error))


def _remarks(image: Image.Image, rgb: Image.Image) -> Iterator[str]:
    """Yield the kinds of remarks about an image that was read as `rgb`."""
    if orientation(image) != 1:
        yield "exif-rotation"
    if is_transparent(image):
        yield "transparency"
    if image.format != "PSD" and getattr(image, "is_animated", False):  # a PSD's first frame is all its layers
        yield "frames"
    extrema = cast(tuple[tuple[int, int], ...], rgb.getextrema())
    if all(low == high for low, high in extrema) or max(high for _, high in extrema) <= _ALMOST_BLACK:
        yield "plain"


def _sha256(path: str) -> tuple[str, str]:
    try:
        return path, file_sha256(Path(path))
    except OSError:
        return path, ""  # The decoder reports unreadable files.


def _same_content(files: Iterable[tuple[str, int]], pool: ThreadPoolExecutor) -> list[list[str]]:
    """Return groups of paths with equal content, given with their sizes; only files of equal size are read."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for path, size in files:
        by_size[size].append(path)
    candidates = [path for paths in by_size.values() if len(paths) > 1 for path in paths]
    groups: dict[str, list[str]] = defaultdict(list)
    for path, digest in pool.map(_sha256, candidates, chunksize=64):
        if digest:
            groups[digest].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _duplicates(files: dict[str, list[tuple[str, int]]], found: _Found, pool: ThreadPoolExecutor) -> None:
    part_of = {path: role for role, listed in files.items() for path, _ in listed}
    groups = _same_content((file for listed in files.values() for file in listed), pool)
    across = [group for group in groups if len({part_of[path] for path in group}) > 1]
    if across:
        items = [" = ".join(group) for group in across]
        found.problem("leak", f"{len(across)} images are both in the training and in the evaluation part", items)
    within = [" = ".join(group) for group in groups if group not in across]
    if within:
        found.problem("duplicate", f"{len(within)} images occur more than once", within)


def _overlap(
    sets: Sequence[ImageSet],
    ours: Sequence[tuple[str, int]],
    other: ImageSet,
    found: _Found,
    pool: ThreadPoolExecutor,
) -> None:
    """Report class names and files that are in the ID set and in an OOD set."""
    known = {c.wnid or fold(c.name): c.name for images in sets for c in images.classes}
    known |= {fold(c.name): c.name for images in sets for c in images.classes}
    shared = [c.name for c in other.classes if (c.wnid or "") in known or fold(c.name) in known]
    if shared:
        found.problem("overlap", f"{len(shared)} classes of {other.spec} are ID classes: {some_of(shared)}", shared)
    theirs = dict(_sized(other, _Found()))
    sizes = {size for _, size in ours} & set(theirs.values())
    files = {path: size for path, size in (*ours, *theirs.items()) if size in sizes}
    groups = _same_content(files.items(), pool)
    both = [g for g in groups if any(p in theirs for p in g) and not all(p in theirs for p in g)]
    same_file = [path for path, _ in ours if path in theirs]
    items = [*(" = ".join(group) for group in both), *same_file]
    if items:
        found.problem("overlap", f"{len(items)} images of {other.spec} are ID images", items)
