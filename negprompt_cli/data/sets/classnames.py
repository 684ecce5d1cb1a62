"""From class folders to the words that go into a prompt.

A class is keyed by its folder name (for ImageNet the WordNet id, "wnid"), never by its words: among the 1000 cleaned
ImageNet names "missile" and "sunglasses" occur twice. In order of precedence the words come from a class-name file
(`class_list`, `naming`), from the CLIP-cleaned ImageNet names, from WordNet's first lemma (wnids outside ImageNet-1k), from
the folder's name.

The ImageNet facts belong to installed libraries: the cleaned names to open_clip (`IMAGENET_CLASSNAMES`, sorted-wnid
order), wnids and lemmas to timm. Both keep them in plain files without imports of their own, which are read directly
because importing either library costs seconds.
"""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from negprompt_cli.errors import NegPromptError

_WNID = re.compile(r"n[0-9]{8}")


@dataclass(frozen=True)
class ClassLabel:
    """One class of an image set or of a prompt artifact."""

    key: str
    """Folder name or wnid: unique within the set. Classes are told apart by it; names may repeat."""
    name: str
    """The words for the prompt."""
    wnid: str | None
    """WordNet id, where known."""


def _library_file(package: str, relative: str) -> Path:
    """Path of a file inside an installed package, without importing the package."""
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations if found else None) or ():
        path = Path(folder) / relative
        if path.is_file():
            return path
    raise NegPromptError(
        f"The installed {package} has no {relative}. Reinstall {package} in a version negprompt allows."
    )


@lru_cache(maxsize=1)
def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 wnids of ImageNet-1k, sorted (timm's list)."""
    return tuple(_library_file("timm", "data/_info/imagenet_synsets.txt").read_text(encoding="utf-8").split())


@lru_cache(maxsize=1)
def imagenet_names() -> tuple[str, ...]:
    """The 1000 CLIP-cleaned ImageNet names in sorted-wnid order (open_clip's `IMAGENET_CLASSNAMES`)."""
    path = _library_file("open_clip", "zero_shot_metadata.py")
    module_spec = importlib.util.spec_from_file_location("_open_clip_zero_shot_metadata", path)
    if module_spec is None or module_spec.loader is None:
        raise NegPromptError(f"Cannot read {path}. Reinstall open_clip_torch.")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return tuple(module.IMAGENET_CLASSNAMES)


@lru_cache(maxsize=1)
def _cleaned() -> dict[str, str]:
    return dict(zip(imagenet_wnids(), imagenet_names(), strict=True))


@lru_cache(maxsize=1)
def _synonyms() -> dict[str, str]:
    text = _library_file("timm", "data/_info/imagenet_synset_to_lemma.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    return {wnid: lemmas.strip() for wnid, lemmas in pairs}


@lru_cache(maxsize=1)
def synonym_texts() -> frozenset[str]:
    """The synsets of ImageNet-21k as one text each: "tench, Tinca tinca"."""
    return frozenset(_synonyms().values())


def is_wnid(text: str) -> bool:
    """Whether `text` has the form of a noun's WordNet id: 'n' and eight digits."""
    return _WNID.fullmatch(text) is not None


def words(folder: str) -> str:
    """A folder's name read as words: underscores and hyphens are spaces; one space between words."""
    return " ".join(re.sub(r"[_\-\s]+", " ", folder).split()) or folder


def class_label(key: str) -> ClassLabel:
    """The class of a folder name by itself, without any class-name file."""
    if not is_wnid(key):
        return ClassLabel(key=key, name=words(key), wnid=None)
    name = _cleaned().get(key) or _synonyms().get(key, "").split(",")[0].strip() or key
    return ClassLabel(key=key, name=name, wnid=key)


def label_classes(keys: Sequence[str], names: dict[str, str]) -> tuple[ClassLabel, ...]:
    """The classes of `keys`, in that order, named by `names` where it has them."""
    labels = (class_label(key) for key in keys)
    return tuple(ClassLabel(key=c.key, name=names.get(c.key, c.name), wnid=c.wnid) for c in labels)
