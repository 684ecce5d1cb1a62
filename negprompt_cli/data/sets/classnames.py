"""Find the words of a class for its prompt from its folder name.

The key of a class is its folder name (for ImageNet the WordNet id, "wnid"), never its words: among the 1000 cleaned
ImageNet names "missile" and "sunglasses" occur twice. The words come from the first of these sources that has them: a
class-name file (`class_list`, `naming`), the ImageNet names cleaned by CLIP's authors, WordNet's first lemma (for wnids
outside ImageNet-1k), the folder name.

Installed libraries provide the ImageNet data: open_clip the cleaned names (`IMAGENET_CLASSNAMES`, in sorted-wnid order),
timm the wnids and lemmas. Importing either library takes seconds, so their data files are read directly.
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
    """Folder name or wnid, unique within the set. It identifies the class, because names may repeat."""
    name: str
    """The words for the prompt."""
    wnid: str | None
    """WordNet id, if known."""


def _library_file(package: str, relative: str) -> Path:
    """Return the path of a file of an installed package, without importing the package.

    Raises:
        NegPromptError: the package has no such file.
    """
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
    """Return the 1000 wnids of ImageNet-1k, sorted (from timm)."""
    return tuple(_library_file("timm", "data/_info/imagenet_synsets.txt").read_text(encoding="utf-8").split())


@lru_cache(maxsize=1)
def imagenet_names() -> tuple[str, ...]:
    """Return the 1000 cleaned ImageNet names in sorted-wnid order (from open_clip's `IMAGENET_CLASSNAMES`)."""
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
    """Return the synsets of ImageNet-21k, each as one text such as "tench, Tinca tinca"."""
    return frozenset(_synonyms().values())


def is_wnid(text: str) -> bool:
    """Whether `text` has the form of a WordNet id of a noun: 'n' and eight digits."""
    return _WNID.fullmatch(text) is not None


def words(folder: str) -> str:
    """Return a folder's name as words separated by single spaces; underscores and hyphens count as spaces."""
    return " ".join(re.sub(r"[_\-\s]+", " ", folder).split()) or folder


def class_label(key: str) -> ClassLabel:
    """Return the class of a folder name, without any class-name file."""
    if not is_wnid(key):
        return ClassLabel(key=key, name=words(key), wnid=None)
    name = _cleaned().get(key) or _synonyms().get(key, "").split(",")[0].strip() or key
    return ClassLabel(key=key, name=name, wnid=key)


def label_classes(keys: Sequence[str], names: dict[str, str]) -> tuple[ClassLabel, ...]:
    """Return the classes of `keys` in that order; `names` replaces names by key."""
    labels = (class_label(key) for key in keys)
    return tuple(ClassLabel(key=c.key, name=names.get(c.key, c.name), wnid=c.wnid) for c in labels)
