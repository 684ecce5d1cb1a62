"""Decide by the names of files and folders what is an image, and count what is left out, by reason.

The lists are in `file_kinds.yaml`, but for the usual formats, which are needed for every image. An image is a file with a
suffix whose format the installed Pillow decodes by itself; its registry is asked, so a newer Pillow, or a plugin for HEIC,
AVIF or JPEG XL that is installed, adds suffixes. Everything else in a folder of images is left out for one of these reasons,
which are fixed words for scripts:

    system      made by operating systems, servers, editors or version control: @eaDir, Thumbs.db, ._photo.jpg, .git
    hidden      a name that begins with a dot
    unfinished  incomplete downloads and copies, and backups
    unreadable  an image that Pillow does not decode; messages say what to install or convert
    twin        such an image with a readable image of the same name: a camera's raw file beside its JPEG
    container   a file that may contain images but is not an image: a video, an archive, a document
    dead-link   a link without a target, whose name is not that of an image
    no-suffix   a name without a suffix
    beside      labels, captions and notes that accompany images
    other       any other suffix

A file that is named directly (on the command line, in a list) is used with any suffix. Its content decides how it is read:
first as one of the usual formats, then as the format of its suffix. So an image with a wrong or missing suffix is read if it
is named directly. If only its folder is named, it is left out and counted; `data check` looks into such files.
"""

import importlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cache, lru_cache
from pathlib import PurePath
from typing import Literal

from PIL import Image

Reason = Literal[
    "system", "hidden", "unfinished", "unreadable", "twin", "container", "dead-link", "no-suffix", "beside", "other"
]

BY_CONTENT = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the usual formats. They have unique signatures, so such files are read with any file name."""

_PATTERNED: tuple[Reason, ...] = ("system", "unfinished")
"""The reasons for which `file_kinds.yaml` has patterns of names."""
_SUFFIX = re.compile(r"\.[a-z][a-z0-9_-]{0,14}")

_SAID: dict[Reason, str] = {
    "system": "made by systems and editors",
    "hidden": "hidden",
    "unfinished": "unfinished or backups",
    "unreadable": "not decoded by Pillow",
    "twin": "other versions of images that are read",
    "container": "videos, archives and documents",
    "dead-link": "links whose target does not exist",
    "no-suffix": "without a suffix",
    "other": "not images by their suffix",
    "beside": "labels, notes or arrays",
}
"""Words for the files of each reason in messages, in the order of the messages."""


@dataclass(frozen=True)
class Unreadable:
    """A kind of image, or (if `image` is false) of container, that Pillow alone does not decode.

    With `package` installed, Pillow can read it after importing `module` and calling its function `register`, if there is
    one. `preview`: Pillow would read a small preview inside the file instead of the image.
    """

    kind: str
    suffixes: tuple[str, ...]
    package: str = ""
    module: str = ""
    register: str = ""
    preview: bool = False
    image: bool = True
    advice: str = "convert such files to PNG or JPEG"

    @property
    def help(self) -> str:
        """The advice for such files."""
        return f"install {self.package}, or {self.advice}" if self.package else self.advice


@dataclass(frozen=True)
class _Content:
    """The first bytes of a kind of file: `starts` at byte `at`; upper and lower case are equal."""

    starts: bytes
    what: str
    advice: str
    at: int = 0


@dataclass(frozen=True)
class _Lists:
    never: frozenset[str]
    also: dict[str, str]
    not_images: dict[str, str]
    beside: frozenset[str]
    unreadable: tuple[Unreadable, ...]
    names: "dict[tuple[Reason, bool], _Names]"
    """Patterns by reason and by whether the name is that of a folder."""
    contents: tuple[_Content, ...]


@cache
def _lists() -> _Lists:
    # A directly named file of a usual format needs no list, and importing PyYAML takes a while.
    from negprompt_cli.data.files.yamlfile import package_yaml

    values = package_yaml(__package__, "file_kinds.yaml")
    kinds = tuple(Unreadable(**{**each, "suffixes": tuple(each["suffixes"])}) for each in values["unreadable"])
    help_of = {kind.kind: kind.help for kind in kinds}
    names: dict[tuple[Reason, bool], _Names] = {}
    for reason in _PATTERNED:
        for folders, key in ((True, "folders"), (False, "files")):
            names[reason, folders] = _Names(values["never"][reason][key])
    return _Lists(
        never=frozenset(values["formats"]["never"]),
        also=values["suffixes"]["also"],
        not_images=values["suffixes"]["not_images"],
        beside=frozenset(values["suffixes"]["beside"]),
        unreadable=kinds,
        names=names,
        contents=tuple(
            _Content(
                c["starts"].encode("latin-1").lower(), c["what"], c.get("advice") or help_of[c["kind"]], c.get("at", 0)
            )
            for c in values["contents"]
        ),
    )


class _Names:
    """Shell patterns that match whole names."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(patterns)
        self._any = re.compile("|".join(f"({translate(pattern)})" for pattern in patterns), re.IGNORECASE)

    def pattern(self, name: str) -> str:
        """The pattern that `name` matches, or nothing."""
        found = self._any.match(name)
        return self._patterns[found.lastindex - 1] if found and found.lastindex else ""


@cache
def _formats() -> dict[str, str]:
    """Return Pillow's format for each supported suffix, including those of installed plugins."""
    Image.init()
    lists = _lists()
    for kind in lists.unreadable:
        if kind.module and not any(suffix in Image.registered_extensions() for suffix in kind.suffixes):
            try:
                plugin = importlib.import_module(kind.module)
                if kind.register:
                    getattr(plugin, kind.register)()
            except Exception:  # If the plugin is missing or does not fit this Pillow, the kind stays unreadable.
                continue
    known = {**lists.also, **Image.registered_extensions()}
    decoded = {format for format in Image.OPEN if format not in lists.never}
    # Pillow opens MPO files, which contain several JPEGs, as JPEG.
    known = {suffix: "JPEG" if format == "MPO" else format for suffix, format in known.items()}
    return {s: format for s, format in known.items() if format in decoded and s not in lists.not_images}


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of images, in lower case and with their dot."""
    return frozenset(_formats())


def readable_formats(suffix: str) -> tuple[str, ...]:
    """Return Pillow's names of the formats to try for a file of this suffix: the usual formats, then that of the suffix."""
    own = _formats().get(suffix.lower())
    usual = [format for format in BY_CONTENT if format in Image.OPEN]
    return tuple(dict.fromkeys([*usual, *([own] if own else [])]))


@cache
def common_formats() -> tuple[str, ...]:
    """Return the usual formats that Pillow knows without loading all its plugins, which takes 0.1 seconds."""
    Image.preinit()
    return tuple(format for format in BY_CONTENT if format in Image.OPEN)


@cache
def _common_suffixes() -> frozenset[str]:
    formats = common_formats()
    return frozenset(suffix for suffix, format in Image.EXTENSION.items() if format in formats)


def is_image_name(name: str) -> bool:
    """Whether a file's name is that of an image: it has a supported suffix and does not begin with a dot."""
    dot = name.rfind(".")
    if dot <= 0 or name[0] == ".":
        return False
    suffix = name[dot:].lower()
    return suffix in _common_suffixes() or suffix in image_suffixes()


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry of a folder is a folder too; a circular link is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def unreadable_kind(suffix: str) -> Unreadable | None:
    """Return the kind of files with this suffix if Pillow does not decode them, else None."""
    suffix = suffix.lower()
    if suffix in image_suffixes():
        return None
    return next((kind for kind in _lists().unreadable if suffix in kind.suffixes), None)


def disguise(start: bytes) -> tuple[str, str] | None:
    """Return what a file is by its first 200 bytes, and what to do about it; None if they do not show it."""
    start = start.removeprefix(b"\xef\xbb\xbf").lower()
    for content in _lists().contents:
        where = start if content.at else start.lstrip(b" \t\r\n")
        if where[content.at :].startswith(content.starts):
            return content.what, content.advice
    return None


@lru_cache(maxsize=65536)
def system_name(name: str, *, folder: bool) -> str:
    """Return the pattern that marks a name as made by a system, an editor or version control; empty if there is none."""
    return _lists().names["system", folder].pattern(name)


def system_part(path: str) -> str:
    """Return the pattern that marks a file or a folder of a path (POSIX text) as a system's; empty if there is none."""
    *above, name = path.split("/")
    parts = (system_name(name, folder=False), *(system_name(part, folder=True) for part in above))
    return next((part for part in parts if part), "")


@lru_cache(maxsize=65536)
def reason_for(name: str, *, folder: bool) -> tuple[Reason, str] | None:
    """Return why a listing leaves out a file or folder, and what it is; None for images and ordinary folders.

    The second text is the name's pattern for `system` and `unfinished`, and the suffix for other reasons, so that there are
    few different texts.
    """
    lists = _lists()
    if folder:
        for reason in _PATTERNED:
            if pattern := lists.names[reason, True].pattern(name):
                return reason, pattern
        return ("hidden", "folders") if name.startswith(".") else None
    if is_image_name(name):
        return None
    suffix = PurePath(name).suffix.lower()
    # An iCloud placeholder is a hidden file in place of an image.
    if (kind := unreadable_kind(suffix)) is not None and (kind.kind == "placeholder" or not name.startswith(".")):
        return ("unreadable" if kind.image else "container"), suffix
    for reason in _PATTERNED:
        if pattern := lists.names[reason, False].pattern(name):
            return reason, pattern
    # Numbered frames and names with dots have any number of different suffixes.
    suffix = suffix if _SUFFIX.fullmatch(suffix) else "*" if suffix else ""
    if name.startswith("."):
        return "hidden", suffix or "*"
    if not suffix:
        return "no-suffix", ""
    return ("beside" if suffix in lists.beside else "other"), suffix


@dataclass(eq=True)
class LeftOut:
    """Counts of files and folders that were left out, by reason and by name or suffix.

    A folder counts as one; its content is not listed. `examples` has the first path of each count.
    """

    counts: Counter[tuple[Reason, str]] = field(default_factory=Counter)
    examples: dict[tuple[Reason, str], str] = field(default_factory=dict, compare=False)

    def add(self, reason: Reason, what: str, path: str) -> None:
        """Count the file or folder at `path`."""
        self.counts[reason, what] += 1
        self.examples.setdefault((reason, what), path)

    def update(self, other: "LeftOut") -> None:
        """Add the counts of `other`."""
        self.counts.update(other.counts)
        self.examples = {**other.examples, **self.examples}

    def __bool__(self) -> bool:
        return bool(self.counts)

    @property
    def unreadable(self) -> int:
        """Number of images in formats that cannot be read here."""
        return sum(count for (reason, _), count in self.counts.items() if reason == "unreadable")

    def by_reason(self) -> dict[str, dict[str, int]]:
        """Return the counts by reason and by name or suffix, sorted, for JSON."""
        reasons: dict[str, dict[str, int]] = {}
        for (reason, what), count in sorted(self.counts.items()):
            reasons.setdefault(reason, {})[what] = count
        return reasons

    def text(self, *, beside: bool = False) -> str:
        """Return the counts as text for a message. The reason `beside` is included only if the argument is true."""
        parts = []
        for reason, said in _SAID.items():
            if reason == "beside" and not beside:
                continue
            whats = {what: count for (r, what), count in self.counts.items() if r == reason}
            if whats and reason in ("unreadable", "container"):
                parts += _unreadable_text(whats)
            elif whats:
                total = sum(whats.values())
                names = _most(whats)
                parts.append(f"{total} {said}" + (f" ({names})" if names else ""))
        return "; ".join(parts)

    def misnamed(self) -> list[str]:
        """Return a sentence for each name or suffix whose first file has the content of an image; opens these files."""
        found = []
        for (reason, what), path in sorted(self.examples.items()):
            if (
                reason in ("unreadable", "container", "no-suffix", "other")
                and (format := _format_inside(path)) is not None
            ):
                files = f"files that end in {what}" if what.startswith(".") else "files without a usual suffix"
                found.append(
                    f"{path} has the content of a {format} image, so the {self.counts[reason, what]} {files} may be images. "
                    f"Give them the suffix {_suffix_of(format)}, or name them in a list."
                )
        return found


def _format_inside(path: str) -> str | None:
    """Return Pillow's name of an image file's format, by its content only; None if it is not an image."""
    kind = unreadable_kind(PurePath(path).suffix)
    if kind is not None and kind.preview:
        return None
    try:
        with Image.open(path, formats=readable_formats("")) as image:
            return image.format
    except Exception:  # Pillow raises errors of any type for damaged headers.
        return None


def _suffix_of(format: str) -> str:
    usual = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "PPM": ".ppm"}
    return usual.get(format, f".{format.lower()}")


def merged(all_of: Iterable[LeftOut]) -> LeftOut:
    """Return the sum of all counts."""
    whole = LeftOut()
    for each in all_of:
        whole.update(each)
    return whole


def _unreadable_text(suffixes: Mapping[str, int]) -> list[str]:
    """Return a text such as '7 HEIC (.heic): install pillow-heif, or ...' for each kind."""
    by_kind: dict[str, dict[str, int]] = {}
    helps: dict[str, str] = {}
    for suffix, count in suffixes.items():
        kind = unreadable_kind(suffix)
        name = kind.kind if kind else suffix
        by_kind.setdefault(name, {})[suffix] = count
        helps[name] = kind.help if kind else "convert such files"
    return [
        f"{sum(counts.values())} of kind {name} ({', '.join(sorted(counts))}: {helps[name]})"
        for name, counts in by_kind.items()
    ]


def _most(counts: Mapping[str, int], most: int = 4) -> str:
    """Return the most frequent names and the number of others."""
    names = [what for what, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if what]
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more kinds" if more > 0 else "")
