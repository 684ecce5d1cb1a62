"""Sweeps: which cells a grid has, what is shared and skipped, and that the figures are those of the cells."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from evaluation_documents import evaluation_row
from evaluation_world import World, images, make_world, workbench
from processes import interrupt_at
from recorder import Recorder
from typer.testing import CliRunner

from negprompt_cli.cli.app import app
from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.sweep import print_criterion, print_overall
from negprompt_cli.config import load_config
from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.studies.grids import Grid, load_grid
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.compare import compare_runs
from negprompt_cli.steps.sweep import SweepRow, overall, plan_sweep, run_sweep

PROBLEM = {"id": "known", "ood": ["far"]}


def _grid(tmp_path: Path, **fields: object) -> Grid:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump({"problems": {"a": PROBLEM}, **fields}))
    return load_grid(file)


def _configure(keys):
    return load_config(flags=dict(keys))


def test_cells_are_all_combinations_by_name(tmp_path):
    grid = _grid(
        tmp_path,
        seeds=[3, 1],
        settings={"data.shots": 8},
        variants={"with": {}, "without": {"negative.score": "paper"}},
        grid={"negative.count": [1, 2], "negative.loss.gamma": [0.5]},
    )
    cells = plan_sweep(grid, tmp_path, _configure)
    names = [f"{v} count={n} gamma=0.5" for v in ("with", "without") for n in (1, 2)]
    assert [(c.variant, c.seed) for c in cells] == [(n, s) for n in names for s in (3, 1)]
    for cell in cells:
        config = cell.jobs[-1].config
        assert (config.seed, config.data.shots, config.data.spec) == (cell.seed, 8, "known")
        assert (config.negative.score == "paper") == cell.variant.startswith("without")
        assert config.negative.count == int(cell.variant.split("count=")[1][0])
        assert cell.evaluation == tmp_path / "a" / cell.variant / f"seed-{cell.seed}" / "evaluation.json"


def test_stage_1_is_shared_by_cells_that_differ_in_stage_2_only(tmp_path):
    grid = _grid(
        tmp_path, grid={"negative.count": [1, 2], "positive.schedule.epochs": [1, 2], "evaluate.temperature": [1, 2]}
    )
    jobs = [job for cell in plan_sweep(grid, tmp_path, _configure) for job in cell.jobs]
    assert len({job.out for job in jobs if job.kind == "train-positive"}) == 2
    assert len({job.out for job in jobs if job.kind == "train-negative"}) == 8
    alone = _grid(tmp_path, grid={"positive.schedule.epochs": [2]})
    # Another grid finds what the first has made.
    assert plan_sweep(alone, tmp_path, _configure)[0].jobs[0].out in {job.out for job in jobs}


def test_part_of_the_classes_is_trained_on_and_all_are_evaluated(tmp_path):
    grid = _grid(tmp_path, settings={"data.train_classes": "10%"}, positive="zero-shot")
    jobs = plan_sweep(grid, tmp_path, _configure)[0].jobs
    assert [(j.kind, j.config.data.train_classes) for j in jobs] == [
        ("train-negative", "10%"),
        ("transfer", "all"),
        ("evaluate", "all"),
    ]
    assert [j.source for j in jobs] == [None, jobs[0].out, jobs[1].out]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"problems": {}}, "problems"),
        ({"problems": {"../a": PROBLEM}}, "problems"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds": []}, "seeds"),
        ({"gird": {}}, "gird"),
        ({"grid": {"negative.count": []}}, "0 cells"),
        ({"grid": {"seed": [1, 2]}}, "cannot vary 'seed'"),
        ({"grid": {"model.name": ["x"]}}, "cannot vary 'model.name'"),
        ({"variants": {"x": {"compute.device": "cpu"}}}, "cannot vary 'compute.device'"),
        ({"grid": {"negative.count": list(range(200)), "data.shots": list(range(200))}}, "40000 cells"),
    ],
)
def test_wrong_grids_are_refused(tmp_path, fields, says):
    with pytest.raises(UsageError, match=says):
        _grid(tmp_path, **fields)


def test_files_that_are_no_grids_are_refused(tmp_path):
    for name, content in (("a", b"\xff\xfe"), ("b", b"{"), ("c", b"- 1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=str(tmp_path / name)):
            load_grid(tmp_path / name)
    with pytest.raises(UsageError, match="missing"):
        load_grid(tmp_path / "missing")


def test_unknown_keys_and_equal_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"negative\.count"):
        plan_sweep(_grid(tmp_path, grid={"negative.cuont": [1]}), tmp_path, _configure)
    with pytest.raises(UsageError, match="x_y"):
        plan_sweep(_grid(tmp_path, grid={"positive.context.words": ["x/y", "x?y"]}), tmp_path, _configure)


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip) -> World:
    return make_world(tmp_path_factory.mktemp("world"), tiny_clip)


def _run(world: World, run: Path, grid: Grid, *, overwrite: bool = False) -> tuple[Recorder, dict]:
    progress = Recorder()

    def configure(keys):
        flags = {"positive.schedule.epochs": 1, "negative.schedule.epochs": 1, **keys}
        return load_config(flags={**flags, "compute.workers": 0, "data.shots": 3})

    bench = workbench(configure({}), world.clip, progress)
    result = run_sweep(bench, grid, run, configure=configure, overwrite=overwrite)
    assert json.loads(result.path.read_text()) == result.document
    return progress, result.document


def _study(world: World, tmp_path: Path, **fields: object) -> Grid:
    problems = {"pets": {"id": str(world.folder / "pets"), "ood": [str(world.folder / "noise")]}}
    return _grid(tmp_path, problems=problems, seeds=[0, 1], **fields)


def test_a_sweep_makes_runs_that_compare_reads_and_skips_them_the_next_time(world, tmp_path):
    grid = _study(world, tmp_path, variants={"default": {}, "plain": {"negative.score": "paper"}})
    run = tmp_path / "run"
    _, document = _run(world, run, grid)
    cells = [run / "pets" / v / f"seed-{s}" for v in ("default", "plain") for s in (0, 1)]
    assert document["evaluations"] == [str(c / "evaluation.json") for c in cells]
    assert document["criterion"] == []
    for row in document["rows"]:
        own = [json.loads((c / "evaluation.json").read_text()) for c in cells if c.parent.name == row["variant"]]
        values = [
            next(r["auroc"] for r in d["rows"] if (r["score"], r["ood"]) == (row["score"], row["ood"])) for d in own
        ]
        assert row["auroc"] == pytest.approx(np.mean(values))
        assert row["std"]["auroc"] == pytest.approx(np.std(values, ddof=1))
    assert [load_prompts(c / "negative.safetensors").id_statistics is None for c in cells] == [False, False, True, True]
    assert len(list(run.glob("pets/positive/*/seed-*/positive.safetensors"))) == 2
    comparison = compare_runs([run / "pets" / "default", run / "pets" / "plain"])
    assert {line.score for line in comparison.lines} >= {"negprompt", "mcm", "max-logit"}

    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    (cells[3] / "evaluation.json").unlink()
    _, again = _run(world, run, grid)
    assert again == document
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == before
    _run(world, run, grid, overwrite=True)
    assert all(p.stat().st_mtime_ns > t for p, t in before.items())


def test_overall_figures_are_those_of_a_loop_over_problems_and_sets(world, tmp_path):
    noise, pets = str(world.folder / "noise"), str(world.folder / "pets" / "train" / "cat")
    problems = {
        "a": {"id": str(world.folder / "pets"), "ood": [noise, pets]},
        "b": {"id": f"{world.folder / 'pets'}#0-1", "ood": [noise]},
    }
    grid = _grid(tmp_path, problems=problems, seeds=[0, 1], variants={"x": {}, "y": {"negative.score": "paper"}})
    _, document = _run(world, tmp_path / "run", grid)
    scores = list(dict.fromkeys(row["score"] for row in document["rows"]))
    assert [(o["variant"], o["score"]) for o in document["overall"]] == [(v, s) for v in ("x", "y") for s in scores]
    for line in document["overall"]:
        total, errors, aurocs = 0.0, 0.0, {}
        for problem, ood in (("a", "noise"), ("a", "cat"), ("b", "noise")):
            auroc = error = 0.0
            for seed in (0, 1):
                path = tmp_path / "run" / problem / line["variant"] / f"seed-{seed}" / "evaluation.json"
                for row in json.loads(path.read_text())["rows"]:
                    if (row["ood"].split("/")[-1], row["score"]) == (ood, line["score"]):
                        auroc += row["auroc"] / 2
                        error += row["fpr95_id_positive"] / 2
            total, errors = total + auroc, errors + error
            aurocs[problem, ood] = auroc
        assert line["cells"] == 3
        assert line["auroc"] == pytest.approx(total / 3)
        assert line["fpr95_id_positive"] == pytest.approx(errors / 3)
        lowest = line["lowest"]
        assert lowest["auroc"] == pytest.approx(min(aurocs.values()))
        assert lowest["auroc"] == pytest.approx(aurocs[lowest["problem"], lowest["ood"].split("/")[-1]])


def _cell(problem, ood, auroc):
    return SweepRow(problem, "v", evaluation_row(ood, auroc=auroc, fpr95_id_positive=1 - auroc))


def test_averages_of_problems_do_not_count_among_the_overall_figures():
    one = [_cell("a", "x", 0.5), _cell("a", "average", 0.5)]
    assert overall(one) == ()
    # A mean of the problems' averages would be 0.7 here.
    two = [*one, _cell("b", "x", 1.0), _cell("b", "y", 0.8), _cell("b", "average", 0.9)]
    (line,) = overall(two)
    assert line.auroc == pytest.approx((0.5 + 1.0 + 0.8) / 3)
    assert line.fpr95_id_positive == pytest.approx((0.5 + 0.0 + 0.2) / 3)
    assert line.lowest == one[0]


def test_the_overall_table_is_printed_where_there_is_more_than_one_pair(capsys):
    rows = [_cell("p", "far", 0.9), _cell("p", "near", 0.81238)]
    talk = Talk(quiet=False, as_json=False)
    print_overall(talk, overall(rows[:1]))
    assert capsys.readouterr().out == ""
    print_overall(talk, overall(rows))
    printed = capsys.readouterr().out
    for shown in ("Mean over 2 pairs", "85.62 / 14.4", "81.2", "p, near"):
        assert shown in printed


def test_the_criterion_of_id_data_is_the_mean_of_what_the_trainings_recorded(world, tmp_path, capsys):
    data = tmp_path / "birds"
    for i in range(4):
        images(data / "train" / f"bird {i}", 12, 50 + i)
        images(data / "val" / f"bird {i}", 2, 60 + i)
    problems = {"birds": {"id": str(data), "ood": [str(world.folder / "noise")]}}
    grid = _grid(tmp_path, problems=problems, seeds=[0, 1], positive="zero-shot", settings={"data.shots": 12})
    progress = Recorder()

    def configure(keys):
        return load_config(flags={"negative.schedule.epochs": 1, "compute.workers": 0, **keys})

    bench = workbench(configure({}), world.clip, progress)
    run = tmp_path / "run"
    result = run_sweep(bench, grid, run, configure=configure, overwrite=False)
    recorded = [
        load_prompts(run / f"birds/default/seed-{s}/negative.safetensors").training[-1].self_check for s in (0, 1)
    ]
    assert [row["score"] for row in result.document["criterion"]] == ["negprompt", "mcm", "max-logit"]
    for row in result.document["criterion"]:
        for side in ("near", "far", "mixed"):
            mean = np.mean([each[side][row["score"]]["auroc"] for each in recorded])
            assert row["sides"][side]["auroc"] == pytest.approx(mean)
        sides = [row["sides"][side]["fpr95_id_positive"] for side in row["sides"]]
        assert row["overall"]["fpr95_id_positive"] == pytest.approx(np.mean(sides))
    print_criterion(Talk(quiet=False, as_json=False), result.criterion)
    printed = capsys.readouterr().out
    assert "max-logit" in printed
    assert f"{100 * result.criterion[0].overall.auroc:.1f}" in printed


def test_an_interrupted_training_is_gone_on_with(world, tmp_path, monkeypatch):
    fields = {"positive": "zero-shot", "variants": {"x": {}}, "settings": {"negative.schedule.epochs": 4}}
    grid, run = _study(world, tmp_path, **fields), tmp_path / "run"
    _, whole = _run(world, tmp_path / "whole", grid)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 4 + 3)
        _run(world, run, grid)
    progress, document = _run(world, run, grid)
    assert [line for line in progress.said if line.startswith("Resuming after epoch 2 of at most 4")]
    assert document["rows"] == whole["rows"]
    assert not list(run.rglob("*checkpoint*"))


def test_a_cell_of_other_settings_is_not_taken_for_this_one(world, tmp_path):
    run = tmp_path / "run"
    _run(world, run, _study(world, tmp_path, variants={"x": {}}, positive="zero-shot"))
    with pytest.raises(UsageError, match="does not belong to this sweep"):
        _run(world, run, _study(world, tmp_path, variants={"x": {"negative.count": 3}}, positive="zero-shot"))


def test_all_missing_data_are_named_at_once(world, tmp_path):
    problems = {"a": {"id": str(tmp_path / "nothing"), "ood": [str(tmp_path / "nowhere")]}}
    with pytest.raises(UsageError, match=r"(?s)nothing.*nowhere"):
        _run(world, tmp_path / "run", _grid(tmp_path, problems=problems))


def test_the_command_prints_its_plan_and_refuses_what_the_grid_says(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(
        yaml.safe_dump({"problems": {"a": PROBLEM}, "seeds": [0, 1], "variants": {"v": {"negative.score": "paper"}}})
    )
    run = ["sweep", str(file), "--run", str(tmp_path / "run"), "--dry-run"]
    printed = CliRunner().invoke(app, run)
    assert printed.exit_code == 0, printed.output
    lines = printed.output.splitlines()
    assert [line.split()[1] for line in lines] == ["train-positive", "train-negative", "evaluate"] * 2
    assert all("negative.score=paper" in line for line in lines if "train-negative" in line)
    assert not (tmp_path / "run").exists()
    for extra in (["--seed", "1"], ["--data", "x"], ["--set", "negative.score=paper"]):
        assert CliRunner().invoke(app, [*run, *extra]).exit_code == 2
