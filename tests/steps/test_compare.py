"""Comparison of evaluations: what may stand side by side, and the table in four forms."""

import csv
import io
import json

import pytest
from evaluation_documents import evaluation, evaluation_row
from typer.testing import CliRunner

from negprompt_cli.cli.app import app
from negprompt_cli.data.results.evaluations import load_evaluation, save_evaluation
from negprompt_cli.data.studies.published import MARKS, Benchmark, Figure, Published, published
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.compare import compare_runs, run_labels
from negprompt_cli.steps.shared.comparison import (
    caption,
    figures_table,
    gaps_table,
    published_table,
    streams_table,
    to_csv,
    to_latex,
    to_markdown,
)
from negprompt_cli.wording import texts

FOUR = ("inaturalist", "sun", "places", "dtd")


def table_cells(comparison):
    header, rows, _ = figures_table(comparison)
    return header, texts(rows)


def _document(*, id_name="pets", oods=("noise",), scores=("negprompt", "mcm"), auroc=0.875, std=None, **changes):
    figures = {"auroc": auroc, "fpr95_id_positive": 0.25, "fpr95_ood_positive": 0.75, "std": std}
    rows = [evaluation_row(name, score, **figures) for score in scores for name in (*oods, "average")]
    return evaluation(rows, **{"id__name": id_name, **changes})


@pytest.fixture
def save(tmp_path):
    def write(name, document):
        folder = tmp_path / name
        save_evaluation(folder / "evaluation.json", document)
        return folder

    return write


def test_what_differs_is_a_column_and_what_is_shared_is_said_once(save):
    a = save("a", _document())
    b = save("b", _document(prompts__shots=4, model__name="RN50", auroc=0.75))
    comparison = compare_runs([a, b])
    assert comparison.differing_names == ["model", "shots"]
    assert comparison.shared["loss"] == "separation"
    assert comparison.sets == ("noise", "average")
    header, rows = table_cells(comparison)
    assert header == ["run", "score", "model", "shots", "noise", "average"]
    assert rows[0] == [
        "a", "negprompt", "ViT-B-16 laion2b_s34b_b88k (abababab)", "16", "87.5 / 25.0", "87.5 / 25.0",
    ]  # fmt: skip
    # So is the accuracy: the same in all rows.
    assert "3 classes, accuracy 70.0 %)" in caption(comparison)
    assert rows[2][2:4] == ["RN50 laion2b_s34b_b88k (abababab)", "4"]


def test_what_is_the_same_in_all_runs_is_one_line_and_the_best_are_strong(save):
    def document(auroc, seed, accuracy):
        rows = [
            evaluation_row(name, score, auroc=value, fpr95_id_positive=1 - value)
            for score, value in (("negprompt", auroc), ("mcm-zero-shot", 0.8))
            for name in ("noise", "average")
        ]
        return evaluation(rows, prompts__seed=seed, id__accuracy=accuracy)

    a, b = save("a", document(0.91234, 1, 0.7)), save("b", document(0.85, 2, 0.8))
    comparison = compare_runs([a, b])
    header, rows, names = figures_table(comparison)
    assert header == ["run", "score", "seeds", "ID acc.", "noise", "average"] and names == 3
    assert texts(rows)[0] == ["all", "mcm-zero-shot", "-", "-", "80.0 / 20.0", "80.0 / 20.0"]
    assert [row[:2] for row in texts(rows)[1:]] == [["a", "negprompt"], ["b", "negprompt"]]
    assert [[span.text for span in spans if span.strong] for row in rows for spans in row[-2:]] == [
        [], [], ["91.2", "8.8"], ["91.2", "8.8"], [], [],
    ]  # fmt: skip
    assert "**91.2** / **8.8**" in to_markdown(comparison)
    assert r"\textbf{91.2} & \textbf{8.8}" in to_latex(comparison)
    # The other evaluation of the same score differs in the last digit of a figure: two lines again.
    other = document(0.85, 2, 0.8)
    rows = tuple(r.model_copy(update={"autc": 0.4999}) if r.score == "mcm-zero-shot" else r for r in other.rows)
    c = save("c", other.model_copy(update={"rows": rows}))
    assert len(compare_runs([a, c]).lines) == 4


def test_a_deviation_is_shown_where_there_is_one(save):
    varying = _document(scores=("negprompt",), std={"auroc": 0.01, "fpr95_id_positive": 0.0})
    assert table_cells(compare_runs([save("a", varying)]))[1][0][-1] == "87.5 ± 1.0 / 25.0"


def test_test_time_scores_are_apart_in_every_form(save):
    def document(loss):
        row = evaluation_row("noise", "adaneg", auroc=0.99, fpr95_id_positive=0.05)
        deviations = {"auroc": 0.01, "fpr95_id_positive": 0.02, "fpr95_ood_positive": None}
        mean = row.model_copy(update={"ood": "average"})
        more = {"sees_test_stream": True, "orders": [0, 1], "order_std": deviations}
        streams = [{**r.document(), **more} for r in (row, mean)]
        return _document(prompts__loss=loss, test_time=streams, auroc=0.8 if loss == "quoted" else 0.7)

    comparison = compare_runs([save("a", document("quoted")), save("b", document("separation"))])
    assert {line.score for line in comparison.lines} == {"negprompt", "mcm"}
    title, header, rows = streams_table(comparison)
    assert "learn from the test images" in title and header == ["run", "score", "noise", "average"]
    assert texts(rows)[0] == ["a", "adaneg", "99.0 ± 1.0 / 5.0 ± 2.0", "99.0 ± 1.0 / 5.0 ± 2.0"]
    # The best of the others is strong, though a test-time score is better.
    assert "**80.0**" in to_markdown(comparison) and "**99.0" not in to_markdown(comparison)
    lines = [line for line in to_latex(comparison).splitlines() if line.endswith(r"\\")]
    assert r"a & adaneg & quoted & 99.0 $\pm$ 1.0 & 5.0 $\pm$ 2.0 & 99.0" in to_latex(comparison)
    assert {line.count(" & ") for line in lines if "multicolumn" not in line} == {6}
    found = [row for row in csv.DictReader(io.StringIO(to_csv(comparison))) if row["sees_test_stream"]]
    assert {row["score"] for row in found} == {"adaneg"} and found[0]["auroc_order_std"] == "0.01"
    assert compare_runs([save("c", document("quoted"))], scores=["mcm"]).streams == ()


def test_differences_from_the_best_baseline_are_a_table_and_columns(save):
    gap = {"difference": 0.012, "low": -0.003, "high": 0.027, "p": 0.0004}
    versus = {
        "baseline": "mcm",
        "level": 0.9,
        **dict.fromkeys(("auroc", "fpr95_id_positive", "fpr95_ood_positive"), gap),
    }
    rows = [evaluation_row(name, "negprompt", versus=versus) for name in ("noise", "average")]
    rows += [evaluation_row(name, "mcm") for name in ("noise", "average")]
    comparison = compare_runs([save("a", evaluation(rows))])
    title, header, found = gaps_table(comparison)
    assert "Difference from mcm" in title and "90 %" in title and header == ["score", "AUROC", "p", "FPR95"]
    assert texts(found) == [["negprompt", "+1.2 [-0.3, 2.7]", "< 0.001", "+1.2 [-0.3, 2.7]"]]
    first = next(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert (first["baseline"], first["auroc_low"], first["auroc_p"]) == ("mcm", "-0.003", "0.0004")
    assert gaps_table(compare_runs([save("b", _document())])) is None
    # Runs with different baselines name them row by row.
    other = [
        evaluation_row(name, "negprompt", auroc=0.6, versus=versus | {"baseline": "knn"})
        for name in ("noise", "average")
    ]
    both = compare_runs([save("a", evaluation(rows)), save("c", evaluation([*other, *rows[2:]], prompts__shots=4))])
    _, header, found = gaps_table(both)
    assert header[:3] == ["run", "score", "against"]
    assert {(row[0], row[2]) for row in texts(found)} == {("a", "mcm"), ("c", "knn")}


def test_the_other_convention_shows_the_other_figures(save):
    _, rows = table_cells(compare_runs([save("a", _document())], fpr="ood-positive"))
    assert rows[0][-1] == "87.5 / 75.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limited": True}, "Limited trials"),
        ({"id__name": "cars"}, "ID images differ"),
        ({"id__images": 31}, "31 images"),
        ({"id__files_sha256": "9" * 64}, "other files"),
        ({"ood": {"noise": {"images": 10, "files_sha256": "3" * 64}}}, "OOD set noise"),
        ({"ood": {"noise": {"images": 11}}}, "OOD set noise"),
    ],
)
def test_what_cannot_be_compared_is_refused(save, change, message):
    runs = [save("a", _document()), save("b", _document(**change))]
    with pytest.raises(UsageError, match=message):
        compare_runs(runs)


def test_different_ood_sets_have_no_average(save):
    comparison = compare_runs([save("a", _document()), save("b", _document(oods=("noise", "fog")))])
    assert comparison.sets == ("noise", "fog")
    assert "no averages" in comparison.notes[0]
    assert table_cells(comparison)[1][0][-1] == "-"


def test_unknown_scores_and_files_name_the_fix(save, tmp_path):
    run = save("a", _document())
    with pytest.raises(UsageError, match="'mcm'"):
        compare_runs([run], scores=["mcn"])
    with pytest.raises(UsageError, match=r"evaluation\.json"):
        compare_runs([tmp_path / "nowhere"])
    (run / "evaluation.json").write_text("{")
    with pytest.raises(UsageError, match="not readable"):
        compare_runs([run])
    (run / "evaluation.json").write_text('{"schema": "negprompt/training/1"}')
    with pytest.raises(UsageError, match="negprompt/training/1"):
        compare_runs([run])
    broken = _document().document()
    del broken["rows"][0]["auroc"]
    (run / "evaluation.json").write_text(json.dumps(broken))
    with pytest.raises(UsageError, match="auroc"):
        load_evaluation(run / "evaluation.json")


def test_a_score_below_chance_is_flagged_in_every_form(save):
    good, bad = save("good", _document()), save("bad", _document(scores=("knn",), auroc=0.3))
    comparison = compare_runs([good, bad])
    (note,) = comparison.notes
    assert "knn on noise (30.0)" in note and "worse than chance" in note
    for text in (to_markdown(comparison), to_latex(comparison)):
        assert "30.0!" in text and "knn on noise" in text
    assert "87.5!" not in to_markdown(comparison)
    assert compare_runs([good]).notes == ()
    # A score that is left out is not spoken of.
    assert compare_runs([good, bad], scores=["mcm"]).notes == ()


def test_csv_has_every_figure_as_a_fraction(save):
    document = _document(std={"auroc": 0.01})
    rows = list(csv.DictReader(io.StringIO(to_csv(compare_runs([save("a", document)])))))
    assert len(rows) == 4
    assert float(rows[0]["auroc"]) == 0.875
    assert float(rows[0]["auroc_std"]) == 0.01
    assert float(rows[0]["fpr95_ood_positive"]) == 0.75
    assert rows[0]["shots"] == "16"


def test_markdown_and_latex_escape_what_they_must(save):
    comparison = compare_runs([save("a_b", _document(id_name="set#0-9", oods=("50%_x|y",)))])
    markdown = to_markdown(comparison)
    header = next(line for line in markdown.splitlines() if line.startswith("| score"))
    assert "50%_x\\|y" in header
    latex = to_latex(comparison)
    assert r"50\%\_x\textbar{}y" in latex
    assert r"set\#0-9" in latex
    # Two lines of headings, one of them with the names of the sets, and every line has as many columns.
    lines = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 2 + len(comparison.lines)
    assert {line.count(" & ") for line in lines[1:]} == {4}
    for word in (r"\toprule", r"\bottomrule", r"\caption{", r"\label{tab:ood-set-0-9}", r"\cmidrule(lr){2-3}"):
        assert word in latex


def test_published_figures_are_beside_the_benchmark_and_architecture_they_belong_to(save):
    theirs = save("a", _document(id_name="imagenet", oods=FOUR))
    comparison = compare_runs([theirs], with_published=True)
    assert {f.method: (f.fpr95, f.auroc, f.mark) for f in comparison.published}["NegPrompt"] == (
        0.2301,
        0.9481,
        "quoted",
    )
    _, header, rows = published_table(comparison)
    assert header == ["method", "AUROC / FPR95", "needs", "evidence", "source"]
    shown = {row[0]: row[1:4] for row in texts(rows)}
    assert shown["MCM"] == ["90.7 / 43.1", "nothing", "recomputed"]
    assert shown["TANL"] == ["- / 9.8", "test stream", "quoted"]
    assert "Li et al., CVPR 2024" in to_markdown(comparison)
    latex = to_latex(comparison)
    assert latex.index(r"\midrule", latex.index("mcm")) < latex.index("TANL [quoted], sees the test stream & ")
    other = compare_runs([save("b", _document())], with_published=True)
    assert other.published == ()
    assert "No published figures" in other.notes[0]
    swapped = compare_runs([theirs], with_published=True, fpr="ood-positive")
    shown = {row[0]: row[1] for row in texts(published_table(swapped)[2])}
    assert (shown["MCM"], shown["NegPrompt"]) == ("90.7 / 37.2", "94.8 / -")
    # Another architecture has figures of its own, or none.
    large = _document(id_name="imagenet", oods=FOUR, model__name="ViT-L-14-quickgelu")
    assert compare_runs([save("c", large)], with_published=True).published[0].fpr95 == 0.3718
    none = compare_runs([theirs, save("c", large)], with_published=True)
    assert none.published == () and "ViT-B-16 or ViT-L-14" in none.notes[0]


def test_the_shipped_figures_are_sound_and_unknown_benchmarks_are_not():
    facts = published()
    assert {f.mark for f in facts.figures} <= set(MARKS)
    assert facts.benchmarks_of("imagenet", list(reversed(FOUR))) == ["conventional", "conventional-large"]
    assert facts.benchmarks_of("imagenet", ["sun"]) == []
    figure = Figure(benchmark="moon", method="x", fpr95=0.5, needs="nothing", mark="quoted", source="y")
    earth = Benchmark(title="", id=("a",), ood=("b",), backbone="RN50")
    with pytest.raises(ValueError, match="moon"):
        Published(benchmarks={"earth": earth}, figures=(figure,))


def test_labels_are_as_short_as_they_can_be(tmp_path):
    paths = [tmp_path / "x" / "run" / "evaluation.json", tmp_path / "y" / "run" / "evaluation.json"]
    assert run_labels(paths) == ["x/run", "y/run"]
    assert run_labels([*paths[:1], tmp_path / "other" / "evaluation.json"]) == ["run", "other"]
    assert run_labels([tmp_path / "a.json", tmp_path / "b.json"]) == ["a", "b"]


def test_the_command_prints_a_table_or_one_document(save, tmp_path):
    run = save("a", _document())
    plain = CliRunner().invoke(app, ["compare", str(run)])
    assert plain.exit_code == 0
    assert "87.5 / 25.0" in plain.stdout
    document = json.loads(CliRunner().invoke(app, ["compare", str(run), "--json", "--scores", "mcm"]).stdout)
    assert [row["score"] for row in document["rows"]] == ["mcm", "mcm"]
    out = tmp_path / "table.csv"
    done = CliRunner().invoke(app, ["compare", str(run), "--format", "csv", "--out", str(out), "-q"])
    assert done.stdout.strip() == str(out)
    assert out.read_text().startswith("run,score,ood")
    assert CliRunner().invoke(app, ["compare", str(run), "--out", str(out)]).exit_code == 2
    limited = save("b", _document(limited=True))
    refused = CliRunner().invoke(app, ["compare", str(run), str(limited)])
    assert refused.exit_code == 2
    assert refused.stdout == ""
