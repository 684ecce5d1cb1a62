"""Class lists that data sets give are read back as the same classes."""

import json
from pathlib import Path

from scoring_world import NAMES, run, write_images, write_photos

from negprompt_cli.data.prepare.class_file import class_lines
from negprompt_cli.data.sets.class_list import novel_names, parse_class_list
from negprompt_cli.data.sets.classnames import ClassLabel, imagenet_wnids, label_classes


def test_all_thousand_classes_of_imagenet_come_back(tmp_path: Path):
    classes = label_classes(imagenet_wnids(), {})
    again = novel_names(parse_class_list(class_lines(classes), "list"))
    assert again.classes == classes
    assert len({c.name for c in classes}) == 998


def test_the_command_prints_and_writes_what_transfer_reads(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 1)
    assert run("data", "classes", photos).stdout == "".join(f"{name}\n" for name in sorted(NAMES))
    document = json.loads(run("data", "classes", photos, "--json").stdout)
    assert [c["name"] for c in document["classes"]] == sorted(NAMES)
    out = tmp_path / "classes.txt"
    for _ in range(2):
        # The same list again is no other one.
        assert run("data", "classes", photos, "--out", out).exit_code == 0
    assert [c.name for c in novel_names(parse_class_list(out.read_text(), "list")).classes] == sorted(NAMES)
    refused = run("data", "classes", f"{photos}#0-1", "--out", out)
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    write_images(tmp_path / "flat", 1)
    assert run("data", "classes", tmp_path / "flat").exit_code == 2


def test_names_with_and_without_a_wnid():
    classes = (ClassLabel("n02012849", "crane", "n02012849"), ClassLabel("my_cat", "my cat", None))
    assert class_lines(classes) == "n02012849 crane\nmy cat\n"
