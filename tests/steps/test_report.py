"""The report: one page without network, pictures in every format, tables and thumbnails that say what the scores say."""

import itertools
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from evaluation_world import World, make_world
from recorder import Recorder

from negprompt_cli.errors import UsageError
from negprompt_cli.report import figures
from negprompt_cli.report.page import Gallery, Section, Table, Thumbnail, render_page
from negprompt_cli.steps.evaluate import run_evaluate
from negprompt_cli.steps.report import ReportOptions, galleries, id_class_table, run_report
from negprompt_cli.steps.shared.measure import measure


class Page(HTMLParser):
    """Collects what a page refers to, and checks that tags nest."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.references, self.open, self.text, self.alts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.references += [values[name] for name in ("src", "href") if name in values]
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip) -> World:
    world = make_world(tmp_path_factory.mktemp("world"), tiny_clip)
    bench = world.bench(scores=("mcm", "negprompt", "knn"))
    run_evaluate(
        bench.config,
        world.run / "evaluation.json",
        artifact=world.artifact,
        overwrite=False,
        progress=Recorder(),
        bench=bench,
    )
    return world


def report(world, runs, out, options=ReportOptions()):  # noqa: B008 - frozen
    return run_report(runs, out, options, overwrite=False, progress=Recorder(), bench=world.bench())


def test_the_page_needs_no_network_and_the_pictures_are_there(world, tmp_path):
    page = report(world, [world.run], tmp_path / "report")
    parsed = Page(page.read_text())
    assert not parsed.open
    for reference in parsed.references:
        if not reference.startswith("data:"):
            assert (page.parent / reference).is_file(), reference
    assert not re.search(r"https?://|@import|url\(", page.read_text())
    assert all(parsed.alts)
    stems = {
        *(f"scores-{s}" for s in ("mcm", "negprompt", "knn")),
        *("similarity-positive", "similarity-negative", "similarity-negative-mean", "roc-noise", "map"),
    }
    assert {p.name for p in (page.parent / "figures").iterdir()} == {
        f"{stem}.{form}" for stem in stems for form in ("png", "svg", "pdf")
    }
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for form, start in starts.items():
        assert (page.parent / "figures" / f"map.{form}").read_bytes().startswith(start)
    text = " ".join(parsed.text)
    for expected in (
        "Most ID-like images of noise",
        "Most OOD-like images of pets",
        "ID classes by negprompt",
        "red fox",
        "max_i exp(<P_i,f>/tau) / sum_i exp(<P_i,f>/tau)",
    ):
        assert expected in text
    with pytest.raises(UsageError, match="exists"):
        report(world, [world.run], tmp_path / "report")


def test_two_runs_get_a_joint_table_and_links(world, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(world.run, other)
    options = ReportOptions(formats=("png",), scores=("negprompt",), map_kind="pca")
    page = report(world, [world.run, other], tmp_path / "report", options)
    parsed = Page(page.read_text())
    assert {"#run1", "#run2"} <= set(parsed.references)
    assert "All runs" in parsed.text
    assert (page.parent / "figures" / "run2-map.png").is_file()


def test_an_artifact_that_has_changed_since_is_refused(world, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(world.run, run)
    text = (run / "evaluation.json").read_text()
    sha = re.search(r'"sha256": "([0-9a-f]{64})"', text).group(1)
    (run / "evaluation.json").write_text(text.replace(sha, "0" * 64))
    with pytest.raises(UsageError, match="has changed since"):
        report(world, [run], tmp_path / "report")
    assert not (tmp_path / "report").exists()
    (run / "evaluation.config.yaml").unlink()
    with pytest.raises(UsageError, match=r"evaluation\.config\.yaml"):
        report(world, [run], tmp_path / "report")


@pytest.mark.parametrize("wrong", [{"formats": ("jpg",)}, {"score": "energy"}, {"scores": ("mcm", "enery")}])
def test_unknown_formats_and_scores_that_were_not_evaluated_are_refused(world, tmp_path, wrong):
    with pytest.raises(UsageError):
        run_report(
            [world.run],
            tmp_path / "report",
            ReportOptions(**wrong),
            overwrite=False,
            progress=Recorder(),
            bench=world.bench(),
        )


def test_tables_by_class_against_loops(world):
    measured = measure(world.bench(scores=("mcm",)), world.artifact)
    table = id_class_table(measured, "mcm")
    threshold = min(measured.id_set.table.scores["mcm"])  # of 15 images, 14 are less than 95 %
    labels, predictions = measured.id_set.encoded.labels.tolist(), measured.id_set.table.predictions.tolist()
    values = measured.id_set.table.scores["mcm"].tolist()
    assert {row[0] for row in table.rows} == {"cat", "dog", "red fox"}
    for name, _, count, accuracy, rejected in table.rows:
        mine = [i for i, label in enumerate(labels) if measured.prompts.names[label] == name]
        assert int(count) == len(mine)
        assert float(accuracy) == pytest.approx(100 * sum(predictions[i] == labels[i] for i in mine) / len(mine))
        assert float(rejected) == pytest.approx(100 * sum(values[i] < threshold for i in mine) / len(mine))
    assert [float(row[4]) for row in table.rows] == sorted((float(row[4]) for row in table.rows), reverse=True)


def test_thumbnails_are_the_images_that_the_score_gets_most_wrong(world):
    measured = measure(world.bench(scores=("negprompt",)), world.artifact)
    like_id, like_ood = galleries(measured, "negprompt")
    highest = max(measured.ood_sets[0].table.scores["negprompt"])
    lowest = min(measured.id_set.table.scores["negprompt"])
    assert like_id.thumbnails[0].lines[-1] == f"score {highest:.5g}"
    assert like_ood.thumbnails[0].lines[-1] == f"score {lowest:.5g}"
    index = int(np.argmin(measured.id_set.table.scores["negprompt"]))
    feature = measured.id_set.encoded.features[index]
    cosines = torch.stack([feature @ p for p in measured.bank.positives])
    assert measured.prompts.names[int(cosines.argmax())] in like_ood.thumbnails[0].lines[0]
    best = max(float(feature @ n) for n in measured.bank.negatives.flatten(0, 1))
    assert f"({best:.3f})" in like_ood.thumbnails[0].lines[1]
    assert like_ood.thumbnails[0].jpeg.startswith(b"\xff\xd8")


def test_names_from_data_cannot_break_the_page():
    evil = '<script>alert("x")</script>'
    section = Section(
        key="run1",
        title=evil,
        limited=True,
        facts=[(evil, evil)],
        results=Table(evil, [evil], [[evil]], note=evil),
        pictures=[],
        tables=[],
        galleries=[Gallery(evil, evil, [Thumbnail(b"jpeg", evil, [evil])])],
    )
    text = render_page(None, [section])
    assert "<script" not in text
    assert "not a result to quote" in text
    assert not Page(text).open


def test_pictures_of_degenerate_values_can_be_drawn_and_are_the_same_each_time():
    def draw():
        same = figures.distributions(
            "all equal", "x", [figures.Group("ID", np.ones(3)), figures.Group("OOD", np.ones(2))]
        )
        return figures.render(same, "svg")

    assert draw() == draw()
    ends = np.array([0.0, 1.0])
    many = [figures.Curve(f"score {i}", ends, ends, 0.5) for i in range(30)]
    assert figures.render(figures.roc("many", many), "png").startswith(b"\x89PNG")


def test_lines_differ_in_colour_and_style_far_beyond_one_palette():
    ends = np.array([0.0, 1.0])
    drawn = figures.roc("many", [figures.Curve(f"score {i}", ends, ends, 0.5) for i in range(28)])
    looks = [(line.get_color(), line.get_linestyle()) for line in drawn.axes[0].get_lines()[:28]]
    assert len(set(looks)) == 28
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in itertools.pairwise(looks))
