"""The report: one page without network, pictures in every format, tables and thumbnails that say what the scores say."""

import itertools
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from evaluation_documents import evaluation, evaluation_row
from evaluation_world import World, make_world
from pages import Page, data_of
from recorder import Recorder

from negprompt_cli.config import Config, PixelsConfig
from negprompt_cli.data.results.evaluation_means import average_over_seeds
from negprompt_cli.data.results.evaluations import StreamRow, load_evaluation, save_evaluation
from negprompt_cli.data.results.rowfile import Row, TextSink
from negprompt_cli.engine.metrics.calibration import accepting_threshold
from negprompt_cli.engine.metrics.detection import acceptance_curve
from negprompt_cli.errors import UsageError
from negprompt_cli.report import figures
from negprompt_cli.report.page import (
    Gallery,
    Mark,
    Matrix,
    Number,
    Picture,
    PictureGroup,
    Section,
    Table,
    Thumbnail,
    render_page,
)
from negprompt_cli.steps.evaluate import run_evaluate
from negprompt_cli.steps.report import ReportOptions, run_report
from negprompt_cli.steps.shared.caught import caught_gallery
from negprompt_cli.steps.shared.measure import Measured, measure
from negprompt_cli.steps.shared.report_parts import (
    answer,
    galleries,
    id_class_table,
    measured_numbers,
    recorded_numbers,
)
from negprompt_cli.steps.shared.report_pictures import nearest_lines
from negprompt_cli.steps.shared.score_file import save_scores
from negprompt_cli.steps.shared.scored_sets import of_measured, read_score_file
from negprompt_cli.steps.shared.workbench import Workbench


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip) -> World:
    world = make_world(tmp_path_factory.mktemp("world"), tiny_clip)
    bench = world.bench(scores=("mcm", "negprompt"))
    run_evaluate(bench, world.run / "evaluation.json", artifact=world.artifact, overwrite=False)
    return world


def report(world, runs, out, options=ReportOptions()):  # noqa: B008 - frozen
    return run_report(world.bench(), runs, out, options, overwrite=False)


def test_the_page_needs_no_network_and_the_pictures_are_there(world, tmp_path):
    page = report(world, [world.run], tmp_path / "report")
    parsed = Page(page.read_text())
    assert not parsed.open
    for reference in parsed.references:
        if not reference.startswith(("data:", "#")):
            assert (page.parent / reference).is_file(), reference
    assert not re.search(r"https?://|@import|url\((?!#)", page.read_text())
    ids = re.findall(r'\bid="([^"]+)"', page.read_text())
    assert len(ids) == len(set(ids))
    assert all(parsed.alts)
    stems = {
        *(f"scores-{s}" for s in ("mcm", "negprompt")),
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
        "OOD images of noise that look most like ID",
        "ID images of pets that look most like OOD",
        "ID classes (score negprompt)",
        "red fox",
        "max_i exp(<P_i,f>/tau) / sum_i exp(<P_i,f>/tau)",
        "OOD accepted (FPR95)",
        "What the negative prompts catch",
        "Configuration and digests",
    ):
        assert expected in text
    with pytest.raises(UsageError, match="exists"):
        report(world, [world.run], tmp_path / "report")


def test_two_runs_get_a_joint_table_and_links(world, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(world.run, other)
    document = load_evaluation(other / "evaluation.json")
    deviations = {"auroc": 0.01, "fpr95_id_positive": 0.02}
    streams = [
        StreamRow(
            **evaluation_row(ood, "adaneg", auroc=auroc).document(),
            sees_test_stream=True,
            orders=(0, 1),
            order_std=deviations,
        )
        for ood, auroc in (("noise", 0.9), ("average", 0.9))
    ]
    save_evaluation(other / "evaluation.json", document.model_copy(update={"test_time": tuple(streams)}))
    options = ReportOptions(formats=("png",), scores=("negprompt",), map_kind="pca")
    page = report(world, [world.run, other], tmp_path / "report", options)
    parsed = Page(page.read_text())
    assert {"#run1", "#run2"} <= set(parsed.references)
    assert "All runs" in parsed.text
    # Scores that see the test stream are in tables of their own: among all runs, and of the run that has them.
    found = page.read_text()
    marked = [
        part.split("</table>")[0] for part in found.split("Test-time scores: these scores see the test stream</h3>")
    ]
    assert len(marked) == 3
    assert all("adaneg" in part and "90.0 ± 1.0 / 50.0 ± 2.0" in part and "mcm" not in part for part in marked[1:])
    assert found.count("adaneg") == 2 and "over 2 orders of the stream" in found
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
    auroc = load_evaluation(world.run / "evaluation.json").row("mcm", "noise").auroc
    (run / "evaluation.json").write_text(text.replace(f'"auroc": {auroc}', f'"auroc": {auroc - 0.003}'))
    with pytest.raises(UsageError, match=r"AUROC of .* Evaluate it again"):
        report(world, [run], tmp_path / "report")
    (run / "evaluation.config.yaml").unlink()
    with pytest.raises(UsageError, match=r"evaluation\.config\.yaml"):
        report(world, [run], tmp_path / "report")


@pytest.mark.parametrize("wrong", [{"formats": ("jpg",)}, {"score": "energy"}, {"scores": ("mcm", "enery")}])
def test_unknown_formats_and_scores_that_were_not_evaluated_are_refused(world, tmp_path, wrong):
    with pytest.raises(UsageError):
        report(world, [world.run], tmp_path / "report", ReportOptions(**wrong))


@pytest.fixture(scope="module")
def measured(world) -> Measured:
    return measure(world.bench(scores=("negprompt", "mcm")), world.artifact)


def test_tables_by_class_against_loops(measured):
    sets = of_measured(measured)
    table = id_class_table(sets)
    threshold = min(sets.id_set.scores["negprompt"])  # of 15 images, 14 are less than 95 %
    labels, predictions = sets.id_set.labels.tolist(), sets.id_set.predictions.tolist()
    values = sets.id_set.scores["negprompt"].tolist()
    assert {row[0] for row in table.rows} == {"cat", "dog", "red fox"}
    for name, count, accuracy, _, accepted, _ in table.rows:
        mine = [i for i, label in enumerate(labels) if sets.names[label] == name]
        assert int(count) == len(mine)
        assert float(accuracy) == pytest.approx(100 * sum(predictions[i] == labels[i] for i in mine) / len(mine))
        assert float(accepted) == pytest.approx(100 * sum(values[i] >= threshold for i in mine) / len(mine))
    assert [float(row[2]) for row in table.rows] == sorted(float(row[2]) for row in table.rows)


def test_thumbnails_are_the_images_that_the_score_gets_most_wrong(measured):
    sets = of_measured(measured)
    like_id, like_ood = galleries(sets, PixelsConfig(), nearest_lines(measured, sets))
    values = sets.id_set.scores["negprompt"]
    assert like_id.thumbnails[0].lines[-1] == f"score {max(sets.ood_sets[0].scores['negprompt']):.4g}"
    assert like_ood.thumbnails[0].lines[-1] == f"score {min(values):.4g}"
    feature = measured.id_set.encoded.features[int(np.argmin(values))]
    cosines = torch.stack([feature @ p for p in measured.bank.positives])
    assert like_ood.thumbnails[0].lines[0] == f"predicted {sets.names[int(cosines.argmax())]}"
    own = {(c, n): float(feature @ measured.bank.negatives[c, n]) for c in range(3) for n in range(2)}
    owner, number = max(own, key=own.get)
    assert like_ood.thumbnails[0].lines[1] == f"negative {sets.names[owner]} #{number + 1}"
    assert like_ood.thumbnails[0].jpeg.startswith(b"\xff\xd8")


def test_what_each_negative_catches_against_loops(measured):
    sets = of_measured(measured)
    gallery = caught_gallery(measured, sets, PixelsConfig())
    threshold = accepting_threshold(sets.id_set.scores["negprompt"], 0.95)
    counts = Counter()
    for i, score in enumerate(sets.ood_sets[0].scores["negprompt"]):
        if score < threshold:
            feature = measured.ood_sets[0].encoded.features[i]
            own = {(c, n): float(feature @ measured.bank.negatives[c, n]) for c in range(3) for n in range(2)}
            counts[max(own, key=own.get)] += 1
    expected = {f"{sets.names[c]} #{n + 1}": count for (c, n), count in counts.items()}
    shown = {card.title: int(card.lines[0].split()[-1]) for card in gallery.thumbnails}
    assert shown == expected


def test_a_file_of_scores_is_reported_without_a_model(world, measured, tmp_path):
    save_scores(tmp_path / "scores.csv", [measured])
    sets, seed = read_score_file(tmp_path / "scores.csv", None)
    plain = of_measured(measured)
    assert (seed, sets.scores) == (measured.prompts.config.seed, ["negprompt", "mcm"])
    assert answer(sets) == answer(plain)
    assert measured_numbers(sets, 0) == measured_numbers(plain, 0)
    assert id_class_table(sets).rows == id_class_table(plain).rows
    page = report(world, [tmp_path / "scores.csv"], tmp_path / "report", ReportOptions(formats=("png",)))
    parsed = Page(page.read_text())
    assert not parsed.open
    assert "OOD images of noise that look most like ID" in " ".join(parsed.text)
    assert "What the negative prompts catch" not in parsed.text
    with pytest.raises(UsageError, match="no score"):
        report(world, [tmp_path / "scores.csv"], tmp_path / "other", ReportOptions(score="energy"))
    (tmp_path / "bad.csv").write_text((tmp_path / "scores.csv").read_text().replace(",id,", ",?,"))
    with pytest.raises(UsageError, match=r"one ID set"):
        report(world, [tmp_path / "bad.csv"], tmp_path / "other")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_of_score_are_reported_as_score_does(tmp_path, form):
    rows = [Row(f"{i}.png", "a", "a", 0.5, i / 7, None, i < 3, "a #1", 0.1) for i in range(9)]
    rows.append(Row("x.png", error="broken"))
    path = tmp_path / f"rows.{form}"
    with path.open("wb") as stream:
        TextSink(stream, form).write(rows)
    page = run_report(Workbench(Config(), Recorder()), [path], tmp_path / "page", ReportOptions(), overwrite=False)
    text = page.read_text()
    assert [row[3] for row in data_of(text)["rows"]] == [i / 7 for i in range(9)]
    assert "3 of 9 images (33.3\N{NO-BREAK SPACE}%) are OOD" in text
    with pytest.raises(UsageError, match="alone"):
        run_report(Workbench(Config(), Recorder()), [path, path], tmp_path / "other", ReportOptions(), overwrite=False)


def test_the_numbers_of_several_seeds_have_their_deviation():
    documents = [
        evaluation([evaluation_row(auroc=auroc), evaluation_row("average", auroc=auroc)], id__accuracy=accuracy)
        for auroc, accuracy in ((0.8, 0.7), (0.9, 0.8))
    ]
    numbers = recorded_numbers(average_over_seeds(documents), "mcm")
    deviation = 100 * np.std([0.8, 0.9], ddof=1)
    assert [(n.value, n.more) for n in numbers] == [
        ("85.0 %", f"± {deviation:.1f} over 2 seeds"),
        ("50.0 %", "± 0.0 over 2 seeds"),
        ("75.0 %", f"± {deviation:.1f} over 2 seeds"),
    ]


def test_names_from_data_cannot_break_the_page():
    evil = '<script>alert("x")</script>'
    gallery = Gallery(evil, evil, [Thumbnail(b"jpeg", evil, [evil], path=evil)])
    table = Table(evil, [evil], [[evil]], note=evil)
    group = PictureGroup(evil, evil, [Picture(evil, "<svg></svg>", [f"{evil}.png"])], [Mark(evil, 0)])
    section = Section(
        key="run1", title=evil, limited=True, answer=[evil], numbers=[Number(evil, evil, evil)], numbers_note=evil,
        scores=group, galleries=[gallery], confusions=Matrix(evil, [evil], [[1]], [[1.0]]), tables=[table],
        results=table, streams=table, more=[group], folded=group, caught=gallery, facts=[(evil, evil)],
    )  # fmt: skip
    text = render_page([table], [section])
    assert "<script" not in text
    assert "Do not quote these figures" in text
    assert not Page(text).open


def test_pictures_of_degenerate_values_can_be_drawn_and_are_the_same_each_time():
    def draw():
        same = figures.distributions("all equal", "x", [("ID", np.ones(3)), ("OOD", np.ones(2))])
        return figures.render(same, "svg")

    assert draw() == draw()
    many = {f"score {i}": acceptance_curve([1.0], [0.0]) for i in range(30)}
    assert figures.render(figures.roc("many", many, lowest=0.01), "png").startswith(b"\x89PNG")


def test_lines_differ_in_colour_and_style_far_beyond_one_palette():
    drawn = figures.roc("many", {f"score {i}": acceptance_curve([1.0], [0.0]) for i in range(28)}, lowest=0.01)
    looks = [(line.get_color(), line.get_linestyle()) for line in drawn.axes[0].get_lines()[:28]]
    assert len(set(looks)) == 28
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in itertools.pairwise(looks))


def test_a_picture_in_a_page_takes_its_colours_and_keeps_its_names_to_itself():
    def draw(key):
        groups = [("ID", np.arange(9.0)), ('"<OOD>', np.arange(5.0))]
        return figures.inline_svg(figures.distributions("x", "x", groups), key, '"<OOD>')

    one, other = draw("one"), draw("other")
    assert not Page(one).open
    assert "var(--s0)" in one
    assert not re.search(r"#[0-9a-f]{6}|http", one)
    names = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert names[0]
    assert not names[0] & names[1]
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', one))
    assert used <= names[0]


def test_names_on_a_map_cover_neither_each_other_nor_a_prompt():
    points = np.array([[0.0, 0.0], [0.3, 0.1], [5.0, 5.0]])
    names = [(f"a rather long name {i}", (float(x), float(y))) for i, (x, y) in enumerate(points[:2])]
    clouds = [figures.Cloud("ID", "id", points, names), figures.Cloud("negatives", "negative", np.array([[0.2, 0.5]]))]
    drawn = figures.feature_map("map", clouds)
    one, other = (note.get_window_extent() for note in drawn.axes[0].texts)
    assert not one.overlaps(other)
    x, y = drawn.axes[0].transData.transform([0.2, 0.5])
    assert not one.contains(x, y) and not other.contains(x, y)


def test_thinned_curves_keep_their_shape():
    generator = np.random.default_rng(0)
    curve = acceptance_curve(generator.normal(1, 1, 30_000), generator.normal(0, 1, 30_000))
    (line, *_) = figures.roc("x", {"x": curve}, lowest=1e-4).axes[0].get_lines()
    x, y = line.get_data()
    assert len(x) < 2000
    shares = np.geomspace(1e-3, 1, 50)
    assert np.interp(shares, x, y) == pytest.approx(np.interp(shares, curve.fallout, curve.recall), abs=0.01)
