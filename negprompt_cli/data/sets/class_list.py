"""A list of class names as a person writes one: a name per line, in any script, with comment lines."""

from dataclasses import dataclass

from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import folded


@dataclass(frozen=True)
class NovelNames:
    """Class names read from a list.

    `classes`: the distinct names in order. `duplicates`: names that came again and were dropped. `skipped_lines`: empty
    and comment lines.
    """

    classes: tuple[ClassLabel, ...]
    duplicates: tuple[str, ...]
    skipped_lines: int


def read_class_list(text: str, where: str) -> NovelNames:
    """Read class names, one per line; '#' starts a comment line.

    Raises:
        UsageError: there is no name.
    """
    seen: dict[str, ClassLabel] = {}
    duplicates, skipped = [], 0
    for line in text.removeprefix("\ufeff").splitlines():
        name = " ".join(line.split())
        if not name or name.startswith("#"):
            skipped += 1
        elif folded(name) in seen:
            duplicates.append(name)
        else:
            seen[folded(name)] = ClassLabel(key=name, name=name, wnid=None)
    if not seen:
        raise UsageError(f"{where} holds no class names: write one per line (lines starting with # are comments).")
    return NovelNames(tuple(seen.values()), tuple(duplicates), skipped)
