"""Every command through the app, on the demonstration's world and model; bad input included."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from processes import interrupt_at
from scoring_world import write_images
from typer.testing import CliRunner, Result

from negprompt_cli import __version__
from negprompt_cli.cli import app
from negprompt_cli.cli.app import SUBCOMMANDS, load_subcommand
from negprompt_cli.data.results.artifacts import load_prompts, save_prompts
from negprompt_cli.data.results.checkpoints import checkpoint_path
from negprompt_cli.demo.images import DemoWorld, write_world
from negprompt_cli.demo.model import unpack_model

FAST = ["--set", "positive.schedule.epochs=3", "--set", "negative.schedule.epochs=3"]


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, env={"COLUMNS": "200", "NO_COLOR": "1"})


def refused(*arguments: object, says: tuple[str, ...], code: int = 2, stdin: str | None = None) -> Result:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == code, result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    for text in says:
        assert text in result.stderr
    return result


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> DemoWorld:
    return write_world(tmp_path_factory.mktemp("world") / "data", seed=0)


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory, world: DemoWorld) -> list[object]:
    model = unpack_model(tmp_path_factory.mktemp("model") / "small")
    return [
        "--model",
        f"local-dir:{model}",
        "--device",
        "cpu",
        "--data",
        world.shapes,
        "--set",
        "compute.workers=0",
        *FAST,
    ]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, common: list[object]) -> Path:
    """A run folder with both artifacts; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    for step in ("train-positive", "train-negative"):
        result = run(step, *common, "--run", folder)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_help_version_and_imports_are_light():
    code = (
        "import sys\n"
        "import negprompt_cli.cli\n"
        "heavy = {'torch', 'open_clip', 'sklearn', 'torchvision', 'numpy', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert run("--version").stdout.strip() == f"negprompt {__version__}"
    commands = run("--help").stdout
    for name in ("train-positive", "train-negative", "evaluate", "transfer", "demo", "data", "config", "cache", "env"):
        assert name in commands
        assert run(name, "--help").exit_code == 0


def test_missing_files_are_found_before_torch_is_imported(tmp_path: Path):
    (tmp_path / "image.png").touch()
    artifact = ("inspect", "verify", "export --prompts", "calibrate --prompts", "train-negative --positive")
    lines = [f"{line} no.safetensors" for line in artifact]
    lines += [
        "evaluate --prompts no.safetensors --data image.png",
        "transfer --prompts no.safetensors --classes no.txt",
    ]
    lines += [f"score --{given} image.png" for given in ("run no", "prompts no.safetensors", "classes no.txt")]
    lines += ["report no", "compare no", "cite no", "sweep no.yaml"]
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from negprompt_cli.cli import app\n"
        f"for line in {lines!r}:\n"
        "    done = CliRunner().invoke(app, line.split())\n"
        "    print(line, done.exit_code, 'no' in done.output, 'torch' in sys.modules, sep='; ')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [f"{line}; 2; True; False" for line in lines]


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_list_of_commands_says_what_the_commands_say(name: str):
    assert " ".join((load_subcommand(name).help or "").split()).startswith(SUBCOMMANDS[name])


def test_an_unknown_command_gets_the_nearest():
    refused("trian-positive", says=("train-positive",))


@pytest.mark.parametrize(("closed", "code"), [("<&- 2>&-", 0), (">&-", 2)])
def test_streams_that_are_closed(closed: str, code: int):
    command = f"{sys.executable} -m negprompt_cli config show {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("Standard output is closed" in done.stderr) == (code == 2)
    assert "Traceback" not in done.stderr


def test_the_home_folder_is_meant_where_the_shell_leaves_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_images(tmp_path / "photos", 1)
    for images in ("~/photos", str(tmp_path / "photos")):
        refused = run("score", "--prompts=~/a.safetensors", images)
        assert refused.exit_code == 2
        assert f"no file {tmp_path / 'a.safetensors'}" in refused.stderr.replace("\n", " ")


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "negprompt_cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"negprompt {__version__}"


def test_training_writes_artifact_configuration_and_epochs(trained: Path):
    assert {p.name for p in trained.iterdir()} == {
        f"{stage}.{suffix}"
        for stage in ("positive", "negative")
        for suffix in ("safetensors", "config.yaml", "metrics.jsonl")
    }
    epochs = [json.loads(line) for line in (trained / "negative.metrics.jsonl").read_text().splitlines()]
    assert [e["epoch"] for e in epochs] == list(range(1, len(epochs) + 1))
    assert {"loss", "nis", "npd", "nnd", "class"} == set(epochs[0]["terms"])


def test_a_run_is_repeatable_from_the_configuration_it_wrote(trained: Path, tmp_path: Path, world: DemoWorld):
    result = run("train-positive", "--config", trained / "positive.config.yaml", "--run", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again/positive.safetensors").read_bytes() == (trained / "positive.safetensors").read_bytes()


def test_quiet_prints_the_path_and_json_one_document(common: list[object], tmp_path: Path):
    quiet = run("train-positive", *common, "--run", tmp_path, "-q")
    assert quiet.stdout.split() == [str(tmp_path / "positive.safetensors")]
    document = json.loads(run("train-negative", *common, "--run", tmp_path, "--json").stdout)
    assert document["schema"] == "negprompt/training/1"
    assert document["kind"] == "negative"
    assert document["limited"] is False


def test_zero_shot_positive(common: list[object], tmp_path: Path):
    result = run("train-negative", *common, "--run", tmp_path, "--positive", "zero-shot")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "negative.safetensors").exists()


@pytest.mark.parametrize("loss", ["separation", "quoted", "official"])
def test_every_loss_preset_trains(common: list[object], tmp_path: Path, loss: str):
    result = run("train-negative", *common, "--run", tmp_path, "--positive", "zero-shot", "--loss", loss, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["terms"]["loss"]


def test_class_specific_contexts_train_but_do_not_transfer(common: list[object], tmp_path: Path):
    for step in ("train-positive --set positive.context.class_specific=true", "train-negative"):
        result = run(*step.split(), *common, "--run", tmp_path)
        assert result.exit_code == 0, result.output
    refused("transfer", *common, "--run", tmp_path, "--classes", "-", stdin="cyan circle", says=("class-specific",))


def test_keep_best_holds_out_id_images(common: list[object], tmp_path: Path):
    result = run("train-positive", *common, "--run", tmp_path, "--keep", "best", "--json")
    assert result.exit_code == 0, result.output
    epochs = [json.loads(line) for line in (tmp_path / "positive.metrics.jsonl").read_text().splitlines()]
    best = min(epochs, key=lambda e: e["held_out"])
    assert json.loads(result.stdout)["epoch"] == best["epoch"]


def test_evaluate_keeps_the_contract(common: list[object], folder: Path, world: DemoWorld):
    ood = f"{world.near},{world.far_digits}"
    result = run("evaluate", *common, "--run", folder, "--ood", ood, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document == json.loads((folder / "evaluation.json").read_text())
    assert document["schema"] == "negprompt/evaluation/1"
    assert document["id"]["images"] == 250
    scores = {"negprompt", "mcm", "mcm-zero-shot", "max-logit", "energy"}
    assert {(r["score"], r["ood"]) for r in document["rows"]} == {
        (s, o) for s in scores for o in ("near", "far-digits", "average")
    }
    for score in scores:
        rows = {r["ood"]: r for r in document["rows"] if r["score"] == score}
        for key in ("auroc", "aupr_in", "aupr_out", "fpr95_id_positive", "fpr95_ood_positive", "oscr"):
            assert rows["average"][key] == pytest.approx((rows["near"][key] + rows["far-digits"][key]) / 2)
            assert 0 <= rows["near"][key] <= 1


def test_evaluation_reads_no_image_twice(
    common: list[object], folder: Path, world: DemoWorld, monkeypatch: pytest.MonkeyPatch
):
    arguments = ("evaluate", *common, "--run", folder, "--ood", world.near, "--scores", "mcm")
    assert run(*arguments).exit_code == 0

    def fail(_path: Path, *_rules: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("negprompt_cli.data.encoding.decoders.open_rgb", fail)
    assert run(*arguments, "--overwrite").exit_code == 0
    assert run(*arguments, "--overwrite", "--no-cache").exit_code == 1


def test_limit_is_marked(common: list[object], folder: Path, world: DemoWorld):
    result = run("evaluate", *common, "--run", folder, "--ood", world.near, "--limit", 20, "--json")
    document = json.loads(result.stdout)
    assert document["limited"] is True
    assert document["id"]["images"] == 20


def test_transfer_reports_what_it_dropped(common: list[object], folder: Path):
    names = "# names\n\ncyan circle\nred circle\ncyan circle\n"
    result = run("transfer", *common, "--run", folder, "--classes", "-", "--json", stdin=names)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["classes"] == ["cyan circle", "red circle"]
    assert document["known"] == ["red circle"]
    assert "more than once" in result.stderr
    extended = run(
        "transfer", *common, "--run", folder, "--classes", "-", "--extend", "--out", folder / "x.safetensors", "--json",
        stdin=names,
    )  # fmt: skip
    classes = json.loads(extended.stdout)["classes"]
    assert len(classes) == 11
    assert classes[-1] == "cyan circle"


def test_a_transferred_artifact_evaluates(common: list[object], folder: Path, world: DemoWorld):
    assert run("transfer", *common, "--run", folder, "--classes", world.novel_names).exit_code == 0
    result = run(
        "evaluate", *common, "--data", world.novel, "--prompts", folder / "transfer-novel.safetensors",
        "--ood", world.far_digits, "--out", folder / "novel.json", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    prompts = json.loads(result.stdout)["prompts"]
    assert prompts["kind"] == "transferred"
    assert prompts["learned_on_classes"] == 10


def test_the_model_is_taken_from_the_artifact(folder: Path, world: DemoWorld):
    result = run("transfer", "--run", folder, "--classes", world.novel_names, "--device", "cpu")
    assert result.exit_code == 0, result.output


class TestRefusals:
    def test_train_negative_first_names_the_missing_step(self, common: list[object], tmp_path: Path):
        refused("train-negative", *common, "--run", tmp_path, says=("train-positive --data", "--positive zero-shot"))

    def test_existing_output(self, common: list[object], folder: Path):
        before = (folder / "positive.safetensors").read_bytes()
        refused("train-positive", *common, "--run", folder, says=("--overwrite",))
        assert (folder / "positive.safetensors").read_bytes() == before

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--device", "gpu7"], "Unknown device 'gpu7'"),
            (["--precision", "fp8"], "bf16"),
            (["--model", "ViT-B-61"], "ViT-B-16"),
            (["--model", "ViT-B-16", "--pretrained", "laion2b_s34b_b88"], "laion2b_s34b_b88k"),
            (["--model", "ViT-B-16", "--pretrained", "openai"], "ViT-B-16-quickgelu"),
            (["--model", "local-dir:nowhere"], "nowhere"),
            (["--set", "negative.cuont=3"], "negative.count"),
            (["--set", "negative.count=none"], "negative.count"),
            (["--config", "papre"], "paper"),
            (["--memory", "lots"], "4GiB"),
            (["--gpus", "2"], "--gpus"),
            (["--on-error", "ignore"], "skip"),
        ],
    )
    def test_options(self, common: list[object], tmp_path: Path, arguments: list[str], says: str):
        refused("train-positive", *common, "--run", tmp_path, *arguments, says=(says,))

    def test_missing_data_says_what_was_tried(self, common: list[object], tmp_path: Path):
        refused(
            "train-positive", *common, "--data", "imagenet", "--data-root", tmp_path / "nowhere", "--run", tmp_path,
            says=("nowhere", "train", "imagenet"),
        )  # fmt: skip

    def test_everything_missing_is_said_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("NEGPROMPT_DATA_ROOT", raising=False)
        refused("train-negative", "--data", "imagenet", says=("train-positive", "data/", "ILSVRC"))
        refused(
            "evaluate",
            "--ood",
            "inaturalist,sun,places,dtd",
            says=("iNaturalist", "SUN", "Places", "dtd", "train-negative"),
        )
        refused("transfer", "--classes", "novel.txt", says=("novel.txt", "train-negative"))

    def test_unknown_names_get_near_ones(self, common: list[object], folder: Path, world: DemoWorld):
        evaluate = ("evaluate", *common, "--run", folder)
        refused(*evaluate, "--ood", "inaturalst", says=("inaturalist",))
        refused(*evaluate, "--ood", world.near, "--scores", "negpromt", says=("negprompt",))
        refused(*evaluate, says=("--ood",))

    def test_positive_artifact_has_no_negatives(self, common: list[object], folder: Path, world: DemoWorld):
        positive = folder / "positive.safetensors"
        refused(
            "evaluate", *common, "--run", folder, "--prompts", positive, "--ood", world.near, says=("train-negative",)
        )
        assert run(
            "evaluate", *common, "--run", folder, "--prompts", positive, "--ood", world.near, "--scores", "mcm"
        ).exit_code == 0  # fmt: skip
        refused("transfer", *common, "--prompts", positive, "--classes", world.novel_names, says=("train-negative",))

    def test_truncated_artifact(self, common: list[object], folder: Path, world: DemoWorld):
        cut = folder / "cut.safetensors"
        cut.write_bytes((folder / "negative.safetensors").read_bytes()[:500])
        refused("evaluate", *common, "--run", folder, "--prompts", cut, "--ood", world.near, says=("cut.safetensors",))

    def test_artifact_of_another_model(self, common: list[object], folder: Path, world: DemoWorld):
        path = folder / "negative.safetensors"
        prompts = load_prompts(path)
        save_prompts(replace(prompts, model=replace(prompts.model, weights_sha256="0" * 64)), path)
        refused("evaluate", *common, "--run", folder, "--ood", world.near, says=("learned for", "000000000000"))

    def test_classes_that_do_not_match(self, common: list[object], folder: Path, world: DemoWorld):
        refused(
            "evaluate", *common, "--data", world.novel, "--run", folder, "--ood", world.near, says=("purple star",)
        )  # fmt: skip

    def test_no_images_and_a_class_without_images(self, common: list[object], tmp_path: Path, world: DemoWorld):
        (tmp_path / "empty").mkdir()
        refused("train-positive", *common, "--data", tmp_path / "empty", "--run", tmp_path, says=("empty",))
        shapes = Path(shutil.copytree(world.shapes, tmp_path / "shapes"))
        (shapes / "train" / "grey_nothing").mkdir()
        refused("train-positive", *common, "--data", shapes, "--run", tmp_path, says=("grey_nothing",))

    def test_fewer_images_than_shots_are_used_and_said(self, common: list[object], tmp_path: Path):
        result = run("train-positive", *common, "--run", tmp_path, "--shots", 50, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["images"] == 200
        assert "fewer than 50 training images" in result.stderr

    def test_broken_image_stops_or_is_counted(
        self, common: list[object], folder: Path, tmp_path: Path, world: DemoWorld
    ):
        photos = Path(shutil.copytree(world.near / "red_arrow", tmp_path / "photos/red_arrow")).parent
        (photos / "red_arrow/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not an image")
        evaluate = ("evaluate", *common, "--run", folder, "--ood", photos, "--scores", "mcm")
        refused(*evaluate, says=("broken.png",), code=1)
        result = run(*evaluate, "--on-error", "skip", "--json")
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert [Path(p).name for p in document["skipped"]["photos"]] == ["broken.png"]
        assert document["rows"][0]["images"] == 25

    def test_class_lists(self, common: list[object], folder: Path, tmp_path: Path):
        transfer = ("transfer", *common, "--run", folder, "--classes")
        empty = tmp_path / "empty.txt"
        empty.write_text("# nothing\n\n")
        refused(*transfer, empty, says=("no class names",))
        refused(*transfer, tmp_path / "absent.txt", says=("absent.txt",))
        refused(*transfer, "-", stdin="word " * 100, says=("77 tokens", "word word"))
        binary = tmp_path / "binary.txt"
        binary.write_bytes(b"\xff\xfe\x00")
        refused(*transfer, binary, says=("UTF-8",))

    def test_unwritable_run_folder(self, common: list[object], tmp_path: Path):
        place = tmp_path / "file"
        place.write_text("in the way")
        refused("train-positive", *common, "--run", place / "run", says=("is a file, not a folder",))

    def test_interrupt_loses_nothing(self, common: list[object], folder: Path, monkeypatch: pytest.MonkeyPatch):
        before = {p.name: p.read_bytes() for p in folder.iterdir()}

        interrupt_at(monkeypatch, 1)
        result = run("train-negative", *common, "--run", folder, "--overwrite")
        assert result.exit_code == 130
        assert "Interrupted" in result.stderr
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before

    def test_traceback_only_with_debug(self, common: list[object], folder: Path):
        assert "Traceback" not in run("train-positive", *common, "--run", folder).stderr
        assert "Traceback" in run("--debug", "train-positive", *common, "--run", folder).stderr
        run("--version")


def test_presets_are_listed_and_resolve():
    listed = run("config", "ls").stdout
    for name in ("paper", "quoted", "official", "demo"):
        assert name in listed
        assert run("config", "show", name).exit_code == 0
    assert "name: quoted" in run("config", "show", "quoted").stdout


def test_a_shown_configuration_reads_back_to_itself(tmp_path: Path):
    shown = run("config", "show", "--set", "negative.count=5").stdout
    (tmp_path / "c.yaml").write_text(shown)
    assert run("config", "show", tmp_path / "c.yaml").stdout == shown


def test_cache_lists_and_clears(common: list[object], tmp_path: Path):
    assert run("train-positive", *common, "--run", tmp_path).exit_code == 0
    stores = json.loads(run("cache", "ls", "--json").stdout)["stores"]
    assert len(stores) == 1
    assert stores[0]["size"] > 0
    assert run("cache", "clear").exit_code == 0
    assert json.loads(run("cache", "ls", "--json").stdout)["stores"] == []


def test_environment_names_versions_and_text_path(common: list[object]):
    facts = json.loads(run("env", *common[:2], "--device", "cpu", "--json").stdout)
    assert facts["negprompt"] == __version__
    assert facts["text path"] == "prefix"
    assert "causal" in facts["text path reason"]


@pytest.mark.slow
def test_demo_runs_whole(tmp_path: Path):
    # What an interrupted one left is in nobody's way.
    (tmp_path / "demo").mkdir()
    left = checkpoint_path(tmp_path / "demo" / "positive.safetensors")
    left.write_bytes(b"left")
    result = run("demo", "--run", tmp_path / "demo", "--overwrite")
    assert result.exit_code == 0, result.output
    assert "--resume" not in result.stderr
    assert not left.exists()
    assert (tmp_path / "demo" / "scores.png").stat().st_size > 10_000
    document = json.loads((tmp_path / "demo" / "evaluation.json").read_text())
    average = {r["score"]: r["auroc"] for r in document["rows"] if r["ood"] == "average"}
    assert average["negprompt"] > average["mcm"]
    assert "AUROC / FPR95" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if not line.startswith("Model "))
    lines = result.stderr.splitlines()
    assert sum(line.startswith(("Training positive", "Training negative")) for line in lines) == 4, (
        "one line when a stage begins and one when it ends"
    )
    assert len(lines) == len(set(lines)) + lines.count("") - 1, "no line is repeated"
    assert result.stderr.count("  negprompt ") == 3
    refused("demo", "--run", tmp_path / "demo", says=("--overwrite",))
