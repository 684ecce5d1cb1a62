"""Files are compared by their bytes, and only where their sizes allow it."""

from pathlib import Path

import pytest

from negprompt_cli.data.sets.same_content import same_content
from negprompt_cli.errors import NegPromptError


def test_names_and_links_do_not_matter(tmp_path: Path):
    contents = {"a": b"one", "b": b"two", "c": b"three", "copy": b"two", "other": b"six"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "c")
    paths = [tmp_path / name for name in ("a", "b", "c")]
    assert same_content(paths, [tmp_path / name for name in ("copy", "link", "other")]).tolist() == [False, True, True]
    assert same_content(paths, []).tolist() == [False, False, False]


def test_a_file_that_is_gone_is_named(tmp_path: Path):
    with pytest.raises(NegPromptError, match=r"gone\.png"):
        same_content([tmp_path / "gone.png"], [])
