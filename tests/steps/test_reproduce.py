"""The paper's experiments: plans, printed commands, and the whole chain on a stand-in of real images."""

import json
import shlex

import pytest
import yaml
from typer.testing import CliRunner

from negprompt_cli.cli.app import app
from negprompt_cli.config import load_config
from negprompt_cli.data.studies.experiments import load_experiment
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.reproduce import needed_data, plan_experiment

METHODS = ["mcm", "coop + mcm", "max-logit", "negprompt separation", "negprompt quoted", "negprompt official"]


def _configure(preset, keys):
    return load_config(preset, flags=keys)


@pytest.mark.parametrize(
    ("name", "tasks", "kinds"),
    [
        ("conventional", ["imagenet"], ["train-positive", *["train-negative", "evaluate"] * 3]),
        ("hard", ["p1", "p2", "p3", "p4"], ["train-positive", *["train-negative", "evaluate"] * 3]),
        (
            "open-vocabulary",
            ["imagenet", "p1", "p2", "p3", "p4"],
            ["train-positive", "data classes", *["train-negative", "transfer", "evaluate"] * 3],
        ),
    ],
)
def test_each_experiment_is_a_chain_per_task(tmp_path, name, tasks, kinds):
    planned = plan_experiment(load_experiment(name), tmp_path, _configure)
    assert [one.task.id for one in planned] == tasks
    for one in planned:
        assert [job.kind for job in one.jobs] == kinds
        losses = [job.config.negative.loss.name for job in one.jobs if job.kind == "train-negative"]
        assert losses == ["separation", "quoted", "official"]
        made = set()
        for job in one.jobs:
            assert job.source is None or job.source in made
            assert job.out not in made
            made.add(job.out)
    outs = [job.out for one in planned for job in one.jobs]
    assert len(set(outs)) == len(outs)


def test_what_several_benchmarks_share_is_learned_once(tmp_path):
    planned = plan_experiment(load_experiment("openood"), tmp_path, _configure)
    first, *others = planned
    assert [job.kind for job in first.jobs] == ["train-positive", *["train-negative", "evaluate"] * 3]
    learned = {job.out for job in first.jobs if job.kind == "train-negative"}
    assert {job.config.data.spec for job in first.jobs if job.kind != "evaluate"} == {"imagenet"}
    for one in others:
        assert [job.kind for job in one.jobs] == ["evaluate"] * 3
        assert {job.source for job in one.jobs} == learned
        assert {job.config.data.spec for job in one.jobs} == {one.task.id}
    assert [(spec.text, role) for spec, role in needed_data(planned[:2])] == [
        ("imagenet", "train"),
        ("imagenet-openood", "eval"),
        *((name, "ood") for name in ("ssb-hard", "ninco", "inaturalist", "textures", "openimage-o")),
    ]
    outs = [job.out for one in planned for job in one.jobs]
    assert len(set(outs)) == len(outs)


def test_the_experiments_are_listed():
    plain = CliRunner().invoke(app, ["reproduce"])
    assert plain.exit_code == 0
    listed = json.loads(CliRunner().invoke(app, ["reproduce", "--json"]).stdout)["experiments"]
    assert [one["name"] for one in listed] == ["conventional", "hard", "open-vocabulary", "openood", "clean"]
    assert all(one["name"] in plain.stdout for one in listed)


def test_only_training_is_confined_to_a_part_of_the_classes(tmp_path):
    planned = plan_experiment(load_experiment("open-vocabulary"), tmp_path, _configure)
    parts = {(job.kind, job.config.data.train_classes) for one in planned for job in one.jobs}
    assert parts == {
        ("train-positive", "10%"),
        ("train-negative", "10%"),
        ("data classes", "all"),
        ("transfer", "all"),
        ("evaluate", "all"),
    }


def test_a_printed_command_resolves_to_the_job_it_stands_for(tmp_path):
    def configure(preset, keys):
        return load_config(preset, flags=keys, assignments=["data.shots=3", "model.name=local-dir:/a b", "seed=7"])

    for one in plan_experiment(load_experiment("open-vocabulary"), tmp_path, configure):
        for job in one.jobs:
            words = shlex.split(job.command())
            if job.kind == "data classes":
                assert words == ["negprompt", "data", "classes", job.config.data.spec, *words[4:]]
                assert words[-2:] == ["--out", str(job.out)]
                continue
            assert words[:2] == ["negprompt", job.kind]
            values = {w: words[i + 1] for i, w in enumerate(words) if w.startswith("--") and w != "--set"}
            sets = [words[i + 1] for i, w in enumerate(words) if w == "--set"]
            assert load_config(flags={"data.spec": values["--data"]}, assignments=sets) == job.config
            assert values["--out"] == str(job.out)


def test_the_data_needed_are_listed_once(tmp_path):
    planned = plan_experiment(load_experiment("conventional"), tmp_path, _configure)
    assert [(spec.text, role) for spec, role in needed_data(planned)] == [
        ("imagenet", "train"),
        ("imagenet", "eval"),
        *((name, "ood") for name in ("inaturalist", "sun", "places", "dtd")),
    ]


def test_unknown_experiments_and_broken_files_name_the_fix(tmp_path):
    with pytest.raises(UsageError, match="'conventional'"):
        load_experiment("conventionel")
    file = tmp_path / "own.yaml"
    file.write_text("mine: {title: x, benchmarks: [{name: y, tasks: [{id: a, ood: []}]}]}")
    with pytest.raises(UsageError, match="ood"):
        load_experiment("mine", file)
    file.write_text(
        "mine: {title: x, benchmarks: [{name: y, tasks: [{id: a, ood: [b]}], figures: hard, published: {mcm: Nobody}}]}"
    )
    with pytest.raises(UsageError, match="Nobody"):
        load_experiment("mine", file)
    file.write_text("mine: {title: x, benchmarks: [{name: y, optional: true, tasks: [{id: a, ood: [b]}]}]}")
    with pytest.raises(UsageError, match="first to learn on a"):
        load_experiment("mine", file)
    with pytest.raises(UsageError, match="cannot be read"):
        load_experiment("mine", tmp_path / "none.yaml")


def test_a_dry_run_prints_commands_and_missing_data_and_does_nothing(tmp_path):
    result = CliRunner().invoke(
        app, ["reproduce", "hard", "--dry-run", "--data-root", str(tmp_path), "--run", str(tmp_path / "run")]
    )
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert sum(line.startswith("negprompt ") for line in lines) == 4 * 7
    assert all(line.startswith(("#", "negprompt ")) or not line for line in lines)
    assert sum("MISSING" in line for line in lines) == 12
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_to_fetch_what_to_know_and_what_it_takes(tmp_path):
    result = CliRunner().invoke(app, ["reproduce", "openood", "--dry-run", "--data-root", str(tmp_path)])
    lines = result.stdout.splitlines()
    assert f"negprompt data download ninco --data-root {tmp_path}" in lines
    assert f"#   {tmp_path}/images_largescale/ssb_hard (OpenOOD)" in lines
    assert not any(line.startswith("negprompt evaluate --data imagenet-v2") for line in lines)
    assert sum(line.startswith("# left out without imagenet-v2: negprompt evaluate") for line in lines) == 6
    # 16 images of each class, the published counts of the others; 110 kB, and 2 kB in the cache, for each.
    evaluated = 45000 + 49000 + 5879 + 10000 + 5160 + 17632 + 10000 + 30000
    assert any(f"for {1281167 + evaluated} images" in line and "159.9 GB" in line for line in lines)
    assert any(line.startswith(f"# images to encode: {16000 + evaluated}, without imagenet-c") for line in lines)
    assert any("negative-separation" in line and "100 steps of 2000 prompts, 83 min" in line for line in lines)
    told = CliRunner().invoke(app, ["reproduce", "clean", "--dry-run", "--data-root", str(tmp_path)]).stdout
    assert told.count("negprompt data download ninco") == 1
    told = CliRunner().invoke(app, ["reproduce", "conventional", "--dry-run", "--data-root", str(tmp_path)]).stdout
    assert "# note on sun: NegRefine (Ansari et al., ICCV 2025) reports that 26.2 %" in told


@pytest.mark.parametrize("experiment", ["conventional", "hard", "open-vocabulary", "openood", "clean"])
def test_every_file_of_a_printed_command_is_made_by_one_before_it(tmp_path, experiment):
    arguments = ["reproduce", experiment, "--dry-run", "--data-root", str(tmp_path), "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert not any(line.rstrip().endswith(":") for line in result.stdout.splitlines())
    made = {"zero-shot"}
    for line in result.stdout.splitlines():
        if line.startswith("negprompt ") and not line.startswith("negprompt data download"):
            words = shlex.split(line)
            values = {w: words[i + 1] for i, w in enumerate(words) if w.startswith("--")}
            assert {values[option] for option in ("--prompts", "--positive", "--classes") if option in values} <= made
            made.add(values["--out"])


def test_missing_data_stop_the_chain_before_it_starts(tmp_path):
    result = CliRunner().invoke(
        app, ["reproduce", "conventional", "--data-root", str(tmp_path), "--run", str(tmp_path / "run")]
    )
    assert result.exit_code == 2
    assert "inaturalist" in result.stderr
    assert not (tmp_path / "run").exists()
    assert CliRunner().invoke(app, ["reproduce", "hard", "--data", "imagenet"]).exit_code == 2


def test_every_experiment_runs_end_to_end_on_a_stand_in_and_is_not_run_twice(tmp_path, real_images, lite_clip_folder):
    easy, textures = f"{real_images / 'imagenette'}", str(real_images / "textures")
    task = {"id": f"{easy}#0-3", "ood": [textures, f"{easy}#4-9"]}
    near = {"id": f"{easy}#4-7", "ood": [f"{easy}#8-9"]}
    published = {"negprompt separation": "NegPrompt"}
    stand_ins = {
        "conventional": {
            "title": "stand-in",
            "note": "What to know.",
            "benchmarks": [
                {"name": "four", "tasks": [task]},
                {"name": "again", "tasks": [{**near, "id": task["id"], "train": task["id"]}]},
                {"name": "gone", "optional": True, "tasks": [{**near, "id": "imagenet-v2", "train": task["id"]}]},
            ],
        },
        "hard": {
            "title": "stand-in",
            "benchmarks": [{"name": "hard", "tasks": [task, near], "figures": "hard", "published": published}],
        },
        "open-vocabulary": {
            "title": "stand-in",
            "train_classes": "50%",
            "benchmarks": [{"name": "four", "tasks": [task]}],
        },
    }
    file = tmp_path / "experiments.yaml"
    file.write_text(yaml.safe_dump(stand_ins))
    quick = ["--limit", "12", "--set", "data.shots=2", "--set", "positive.schedule.epochs=1"]
    # The presets of the published code add epochs to a short schedule.
    quick += ["--set", "negative.schedule.epochs=1", "--set", "negative.schedule.sgd={lr: 0.1}"]
    quick += ["--model", f"local-dir:{lite_clip_folder}"]
    for name in stand_ins:
        run = tmp_path / name
        arguments = ["reproduce", name, "--experiments", str(file), "--run", str(run), "--json", *quick]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        assert [row["method"] for row in document["rows"]] == METHODS * (2 if name == "conventional" else 1)
        assert document["limited"] is True
        assert all(0 <= row["auroc"] <= 1 for row in document["rows"])
        if name == "hard":
            # Published figures are of another architecture.
            assert all(row["published"] is None for row in document["rows"])
            # The mean over both tasks.
            single = [json.loads((p / "evaluation-separation.json").read_text()) for p in sorted(run.glob("1.*"))]
            own = [next(r for r in d["rows"] if r["score"] == "mcm" and r["ood"] == "average") for d in single]
            assert document["rows"][1]["auroc"] == pytest.approx((own[0]["auroc"] + own[1]["auroc"]) / 2)
        if name == "conventional":
            assert document["note"] == "What to know."
            assert {row["benchmark"] for row in document["rows"]} == {"four", "again"}
            assert not (run / "2.1-imagenette-0-3" / "positive.safetensors").exists()
            learned = json.loads((run / "2.1-imagenette-0-3" / "evaluation-quoted.json").read_text())["prompts"]["path"]
            assert learned == str(run / "1.1-imagenette-0-3" / "negative-quoted.safetensors")
        if name == "open-vocabulary":
            evaluated = json.loads((run / "1.1-imagenette-0-3" / "evaluation-quoted.json").read_text())
            assert evaluated["prompts"]["kind"] == "transferred"
            assert evaluated["prompts"]["learned_on_classes"] == 2
            assert evaluated["id"]["classes"] == 4
            times = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.suffix in (".safetensors", ".yaml")}
            again = CliRunner().invoke(app, arguments)
            # What a run decided depends on what it had to do.
            assert {**json.loads(again.stdout), "decisions": document["decisions"]} == document
            assert {p: p.stat().st_mtime_ns for p in times} == times
            told = CliRunner().invoke(app, [word for word in arguments if word != "--json"])
            assert told.stderr.count("Already finished") == 11
            other = CliRunner().invoke(app, [*arguments, "--seed", "9"])
            assert other.exit_code == 2
            assert "other settings" in other.stderr
