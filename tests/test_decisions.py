"""What a command decided for its user is in its JSON document, once each, under one key."""

import json
from pathlib import Path
from typing import Any

from scoring_world import run, write_images, write_photos

from negprompt_cli.decisions import KINDS, Decision, documents


def kinds(document: dict[str, Any]) -> list[str]:
    assert all(set(d) == {"kind", "message", "warning", "facts"} for d in document["decisions"])
    found = [d["kind"] for d in document["decisions"]]
    assert set(found) <= set(KINDS)
    return found


def test_a_record_occurs_once_and_is_plain_json():
    one = Decision("split", "Halved.", {"share": 0.5})
    made = documents([one, Decision("score", "No negatives.", {}, warning=True), one])
    assert json.loads(json.dumps(made)) == [
        {"kind": "split", "message": "Halved.", "warning": False, "facts": {"share": 0.5}},
        {"kind": "score", "message": "No negatives.", "warning": True, "facts": {}},
    ]


def test_data_check_records_images_without_a_class(tmp_path: Path):
    photos = write_photos(tmp_path / "photos", 4)
    write_images(photos, 2, seed=9)
    document = json.loads(run("data", "check", photos, "--json").stdout)
    assert "files-left-out" in kinds(document)
    left = [d["facts"] for d in document["decisions"] if d["kind"] == "files-left-out"]
    assert left[0] == {"folder": str(photos), "files": 2, "reason": "no class"}
