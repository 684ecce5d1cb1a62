"""Make a source of images, with classes and parts, from container files or a Hugging Face dataset.

Classes come with the images (.cls and .json in tar files, columns of Parquet files and datasets), else they are the folders
inside tar files. Parts are the splits of a dataset, the words train, val and test in the names of several files, or folders
with these names in tar files. Without parts, each class is split in half, as for folders.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from negprompt_cli.data.sets import hub_images, packed, parquet_images, tar_images
from negprompt_cli.data.sets.classnames import is_wnid
from negprompt_cli.data.sets.filekinds import LeftOut
from negprompt_cli.data.sets.image_list import with_decisions
from negprompt_cli.data.sets.image_records import ImageList, Line
from negprompt_cli.data.sets.imglist import listed_source
from negprompt_cli.data.sets.layouts import Role, Source, found_instead
from negprompt_cli.data.sets.parts import Part, part_named
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of


def packed_source(text: str, files: Sequence[Path], role: Role, *, class_names: Path | None = None) -> Source:
    """Make the source of `role` from tar or Parquet files.

    Args:
        text: the SPEC as given by the user, for messages.
        files: the files, at least one.
        role: the use of the images.
        class_names: a file of class names.

    Raises:
        UsageError: a file cannot be read, there are no images (for the role), or classes have no names.
    """
    root = Path(os.path.commonpath([file.parent for file in files]))
    left_out = LeftOut()
    parts = _parts([file.name for file in files])
    lines = [
        Line(f"{file.relative_to(root).as_posix()}/{inside}", label, name, part)
        for file, part in zip(files, parts, strict=True)
        for inside, label, name in _labelled(file, left_out)
    ]
    if not lines:
        raise UsageError(f"No images in {text}.{found_instead(left_out)}")
    if all(is_wnid(file.stem) for file in files) and not any(line.name or line.label is not None for line in lines):
        # ImageNet's training set has one tar file per class.
        lines = [replace(line, name=PurePosixPath(line.path).parts[-2].partition(".")[0]) for line in lines]
    form = "Parquet" if files[0].name.lower().endswith(parquet_images.SUFFIXES) else "tar"
    many = f"{len(files)} {form} files" if len(files) > 1 else f"a {form} file"
    columns = parquet_images.columns(files[0]).decisions() if form == "Parquet" else []
    listed = _with(with_decisions(ImageList(text, many, lines)), columns)
    source = listed_source(
        listed,
        role,
        lambda chosen: (root, list(chosen), []),
        class_names=class_names or _beside(files[0]),
        layout=f"{many} in {root}",
    )
    source.left_out[""].update(left_out)
    return source


def dataset_source(text: str, role: Role, *, class_names: Path | None = None) -> Source:
    """Make the source of `role` from `hf:NAME[:SPLIT]`.

    Raises:
        UsageError: there is no such dataset, its splits are not train, val or test, or classes have no names.
    """
    name, asked = hub_images.taken_apart(text)
    splits = (asked,) if asked else hub_images.splits(name)
    parts = [part_named(split) for split in splits] if len(splits) > 1 else [None]
    if len(splits) > 1 and not all(parts):
        raise UsageError(f"{text} has the splits {', '.join(splits)}. Name one of them: {text}:{splits[0]}.")
    lines = [
        Line(f"{split}/{packed.row_name(row)}", label, class_name, part)
        for split, part in zip(splits, parts, strict=True)
        for row, (label, class_name) in enumerate(hub_images.classes(name, split))
    ]
    if not lines:
        raise UsageError(f"No images in {text}.")
    return listed_source(
        _with(
            with_decisions(ImageList(text, "a Hugging Face dataset", lines)),
            [d for s in splits for d in hub_images.columns(name, s).decisions()],
        ),
        role,
        lambda chosen: (Path(f"{hub_images.PREFIX}{name}"), list(chosen), []),
        class_names=class_names,
        layout=f"{text}, split{'s' * (len(splits) > 1)} {some_of(splits)}",
    )


def _with(listed: ImageList, more: Sequence[Decision]) -> ImageList:
    """Return the list with more decisions, each once."""
    return replace(listed, decisions=(*listed.decisions, *dict.fromkeys(more)))


def _labelled(file: Path, left_out: LeftOut) -> Iterator[tuple[str, int | None, str]]:
    """Yield name, label and class name of each image in a file."""
    if file.name.lower().endswith(parquet_images.SUFFIXES):
        for row, (label, name) in enumerate(parquet_images.classes(file)):
            yield packed.row_name(row), label, name
    else:
        for sample in tar_images.samples(file, left_out, labels=True):
            yield sample.name, sample.label, sample.class_name


def _parts(names: Sequence[str]) -> list[Part | None]:
    """Return the parts in the names of files, if they distinguish training images from others."""
    found = [
        next((part for word in re.findall("[a-z]+", n.lower()) if (part := part_named(word))), None) for n in names
    ]
    return found if "train" in found and all(found) and set(found) != {"train"} else [None] * len(names)


def _beside(file: Path) -> Path | None:
    names = file.parent / "classnames.txt"
    return names if names.is_file() else None
