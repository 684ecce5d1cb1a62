"""The page of scored images: what it collects within its bounds, what it says, and that the command writes it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pages import Page, data_of
from scoring_world import calibrated, make_prompts, run, write_artifact, write_images

from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.results.rowfile import Row
from negprompt_cli.engine.clip import Clip
from negprompt_cli.steps.shared import score_page
from negprompt_cli.steps.shared.score_page import Judged, PageRows, page_values


def rows_of(scores: list[float], threshold: float | None = None) -> list[Row]:
    return [
        Row(f"{i}.png", "ab"[i % 2], "ab"[i % 2], 0.5, score, None, None if threshold is None else score < threshold)
        for i, score in enumerate(scores)
    ]


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MOST_SUSPICIOUS", 20), ("SHOWN", 5), ("SAMPLE", 7), ("BROKEN", 3)):
        monkeypatch.setattr(score_page, name, value)


def test_the_most_suspicious_and_a_sample_are_kept_and_all_are_counted(small_bounds: None):
    scores = np.random.default_rng(0).normal(size=300).round(1).tolist()
    page = PageRows()
    rows = rows_of(scores, 0.3)
    for start in range(0, 300, 16):
        page.write(rows[start : start + 16])
    page.write([Row(f"broken{i}", error="why") for i in range(5)])
    expected = sorted(range(300), key=lambda i: (scores[i], i))[:20]
    assert [row.path for row in page.suspicious.values()] == [f"{i}.png" for i in expected]
    assert len(page.sample) == 7
    values = page_values(page, Judged(threshold=0.3), PixelsConfig())
    data = values["data"]
    assert len(data["rows"]) == len(page.suspicious | page.sample)
    for stop in (0, data["start"], len(data["edges"]) - 1):
        for label, name in enumerate(data["classes"]):
            pairs = np.array(data["counts"][label]).reshape(-1, 2)
            below = pairs[pairs[:, 0] < stop, 1].sum()
            assert below == sum(s < data["edges"][stop] for i, s in enumerate(scores) if "ab"[i % 2] == name[0])
    assert sum(data["judged"].values()) == sum(s < 0.3 for s in scores)
    assert "could not be judged: 5" in values["broken"].title
    assert "2 more are not shown" in values["broken"].note
    first, others = ([card.path for card in gallery.thumbnails] for gallery in values["galleries"])
    assert first == [f"{i}.png" for i in expected[:5]]
    assert set(others) == {row.path for row in page.sample.values()} - set(first)


def test_a_sample_is_uniform(small_bounds: None):
    hits = np.zeros(60)
    for seed in range(400):
        page = PageRows(seed=seed)
        page.write(rows_of([float(-i) for i in range(60)]))
        hits[list(page.sample)] += 1
    # Each image is in a sample of 7 of 60 with probability 7/60.
    assert hits.sum() == 400 * 7
    assert hits.min() > 20
    assert hits.max() < 80


@pytest.mark.parametrize(
    ("scores", "threshold", "said"),
    [
        ([1.0, 2.0], None, "2 images were scored. There is no threshold"),
        ([1.0, 2.0], 1.5, "1 of 2 images (50.0 %) are OOD"),
        ([1.0, 2.0], 0.5, "All 2 images are accepted as ID"),
        ([1.0, 1.0], 7.0, "2 of 2 images (100.0 %) are OOD"),
        ([], 1.0, "There were no images to judge."),
    ],
)
def test_the_verdict_is_a_sentence(scores: list[float], threshold: float | None, said: str):
    page = PageRows()
    page.write(rows_of(scores, threshold))
    values = page_values(page, Judged(threshold=threshold), PixelsConfig())
    assert values["answer"][0].startswith(said)


def test_verdicts_by_class_are_shown_as_judged():
    page = PageRows()
    page.write([Row("x", "a", "a", 0.5, 1.0, None, True), Row("y", "b", "b", 0.5, 0.5, None, False)])
    values = page_values(page, Judged(threshold=0.7), PixelsConfig())
    assert [number.value for number in values["numbers"]] == ["2", "1", "50.0 %", "by class"]
    assert "a threshold for each class" in values["note"]


def test_score_writes_a_page_beside_its_rows(clip: Clip, tmp_path: Path):
    artifact = write_artifact(calibrated(make_prompts(clip), 0.1), tmp_path / "negative.safetensors")
    images = write_images(tmp_path / "new </script>", 6)
    (tmp_path / "new </script>" / "broken.png").write_bytes(b"no image")
    common = ["--prompts", artifact, "--device", "cpu", "--workers", 0, "--out", tmp_path / "rows.jsonl"]
    page = tmp_path / "page.html"
    done = run("score", images[0].parent, *common, "--report", page)
    assert done.exit_code == 0, done.output
    text = page.read_text()
    parsed = Page(text)
    assert not parsed.open
    assert all(reference.startswith(("data:image/jpeg", "#")) for reference in parsed.references)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    data = data_of(text)
    judged = sorted((row for row in rows if not row["error"]), key=lambda row: row["score"])
    assert [(row[0], row[3], row[7]) for row in data["rows"]] == [(r["path"], r["score"], r["is_ood"]) for r in judged]
    assert data["edges"][data["start"]] == 0.1
    assert sum(data["judged"].values()) == sum(r["is_ood"] for r in judged)
    words = " ".join(parsed.text)
    assert "could not be judged: 1" in words
    assert "of 100 held-out ID images accepted" in words
    # It is not replaced unasked; rows that are added are on the page with those that were there.
    assert run("score", images[0], *common[:-2], "--report", page).exit_code == 2
    more = write_images(tmp_path / "more", 2, seed=5)
    assert run("score", more[0].parent, *common, "--append", "--report", page).exit_code == 0
    assert len(data_of(page.read_text())["rows"]) == 8
    assert run("score", images[0], *common[:-2], "--report", tmp_path / "page.txt").exit_code == 2


def test_a_page_without_a_threshold(clip: Clip, tmp_path: Path):
    names = tmp_path / "names.txt"
    names.write_text("red circle\ngreen square\n")
    images = write_images(tmp_path / "new", 3)
    page = tmp_path / "page.html"
    done = run(
        "score", images[0].parent, "--classes", names, "--model", clip.identity.name, "--device", "cpu", "--workers", 0,
        "--report", page,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "There is no threshold" in page.read_text()
    assert data_of(page.read_text())["decided"] is False
