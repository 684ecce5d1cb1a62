"""Files of scores compared image by image, against the metrics and DeLong's test on the arrays behind them."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from negprompt_cli.cli.app import app
from negprompt_cli.engine.metrics.detection import evaluate_scores
from negprompt_cli.engine.metrics.paired import Judged, delong_difference, paired_differences
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.compare import compare_runs
from negprompt_cli.steps.shared.comparison import figures_table, gaps_table, to_latex
from negprompt_cli.wording import texts

SIZES = {"pets": 30, "noise": 20, "fog": 12}


def scores(seed: int, shift: float = 1.0) -> dict[str, np.ndarray]:
    """Scores of the images of each set; what they share is what makes images easy."""
    shared, own = np.random.default_rng(99), np.random.default_rng(seed)
    made = {name: shared.normal(size=n) + own.normal(size=n) for name, n in SIZES.items()}
    return made | {"pets": made["pets"] + shift}


def write(
    path: Path, by_seed: dict[int, dict[str, np.ndarray]], *, folder="/data", score="negprompt", shuffle=False
) -> Path:
    """A file of scores as `evaluate` saves them, with a second score that is the same in every file."""
    path.parent.mkdir(exist_ok=True)
    rows = []
    for seed, sets in by_seed.items():
        for name, values in sets.items():
            order = np.random.default_rng(5).permutation(len(values)) if shuffle else range(len(values))
            for i in order:
                own = name == "pets"
                label = "cat" if i % 2 else "dog"
                row = {"set": name, "role": "id" if own else "ood", "path": f"{folder}/{name}/{label}/{i}.png"}
                row |= {"label": label if own else "", "label_name": label if own else ""}
                row |= {"prediction": "cat", "prediction_name": "cat", "seed": seed}
                rows.append({**row, score: repr(float(values[i])), "mcm": repr(math.cos(i * len(name)))})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def judged(sets: dict[str, np.ndarray], oods=("noise", "fog")) -> Judged:
    return Judged(sets["pets"], tuple(sets[name] for name in oods))


def test_the_same_score_on_the_same_images(tmp_path):
    one, twice = scores(1, 0.3), {0: scores(2), 7: scores(3)}
    a = write(tmp_path / "a" / "scores.csv", {0: one})
    # Another order of the same images, in another place.
    b = write(tmp_path / "b" / "scores.csv", twice, folder="/mnt/other/data", shuffle=True)
    comparison = compare_runs([a, b])
    header, rows, _ = figures_table(comparison)
    assert header == ["run", "score", "seeds", "noise", "fog", "average"]
    assert [row[:3] for row in texts(rows)] == [
        ["all", "mcm", "-"], ["a/scores", "negprompt", "0"], ["b/scores", "negprompt", "0,7"],
    ]  # fmt: skip
    line = comparison.lines[2]
    by_hand = [evaluate_scores(s["pets"], s["fog"]) for s in twice.values()]
    assert line.cells["fog"].auroc == pytest.approx(np.mean([m.auroc for m in by_hand]))
    assert line.cells["fog"].std["auroc"] == pytest.approx(np.std([m.auroc for m in by_hand], ddof=1))
    assert line.accuracy == 0.5
    # DeLong and the bootstrap of the package's own functions, whose oracles are loops.
    for oods, cell in ((("noise",), "noise"), (("noise", "fog"), "average")):
        expected = delong_difference([judged(s, oods) for s in twice.values()], [judged(one, oods)])
        found = line.cells[cell].versus.auroc
        assert (found.difference, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert found.p == pytest.approx(expected.p)
    detectors = {"a": [judged(one)], "b": [judged(s) for s in twice.values()]}
    gap = paired_differences(detectors, "a", generator=np.random.default_rng(0))["b"][-1]["fpr95_id_positive"]
    assert line.cells["average"].versus.fpr95_id_positive.difference == pytest.approx(gap.value)
    title, header, rows = gaps_table(comparison)
    assert "from the same score of a/scores" in title and header == ["run", "score", "AUROC", "p", "FPR95"]
    assert [row[:2] for row in texts(rows)] == [["b/scores", "negprompt"]]
    assert any("different folders" in note for note in comparison.notes)
    latex = to_latex(comparison)
    assert (latex.count(r"\begin{table*}"), latex.count(r"\begin{table}")) == (1, 1)
    assert (latex.count(r"\end{table*}"), latex.count(r"\end{table}")) == (1, 1)
    assert r"\label{tab:ood-pets-differences}" in latex


def test_other_images_and_other_kinds_of_files_are_refused(tmp_path):
    a = write(tmp_path / "a.csv", {0: scores(1)})
    fewer = scores(2) | {"fog": scores(2)["fog"][:11]}
    with pytest.raises(UsageError, match=r"images of fog are not the same.*\(12\).*\(11\).*dog|cat"):
        compare_runs([a, write(tmp_path / "b.csv", {0: fewer})])
    renamed = {("mist" if name == "fog" else name): values for name, values in scores(2).items()}
    with pytest.raises(UsageError, match=r"data sets differ.*noise, fog.*noise, mist"):
        compare_runs([a, write(tmp_path / "c.csv", {0: renamed})])
    (tmp_path / "run.json").write_text("{}")
    for other, told in (("run.json", "is none"), ("missing.csv", "does not exist")):
        with pytest.raises(UsageError, match=f"{other} {told}"):
            compare_runs([a, tmp_path / other])
    (tmp_path / "rows.csv").write_text("path,score\nx,1\n")
    with pytest.raises(UsageError, match="is not a file of an evaluation's scores"):
        compare_runs([a, tmp_path / "rows.csv"])
    with pytest.raises(UsageError, match="'mcm'"):
        compare_runs([a, a], scores=["mcn"])
    other = write(tmp_path / "d.csv", {0: scores(2)}, score="energy")
    assert "left out: negprompt, energy" in " ".join(compare_runs([a, other]).notes)
    refused = CliRunner().invoke(app, ["compare", str(a), str(other), "--published"])
    assert refused.exit_code == 2


def test_the_command_prints_the_differences(tmp_path):
    a = write(tmp_path / "a.csv", {0: scores(1, 0.3)})
    b = write(tmp_path / "b.csv", {0: scores(2)})
    done = CliRunner().invoke(app, ["compare", str(a), str(b), "--scores", "negprompt"])
    assert done.exit_code == 0
    assert "DeLong" in done.stdout and "mcm" not in done.stdout
