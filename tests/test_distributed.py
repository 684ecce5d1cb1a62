"""Several processes against one: the same features bit for bit, the same training to rounding, and no hang when one dies.

Every test here runs real processes over gloo. NCCL needs GPUs and is not covered.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_world import write_shards
from ranked_world import bench, draw, everywhere, free_port
from safetensors.torch import load_file
from scoring_world import make_prompts, small_clip, write_artifact, write_broken, write_images
from torch import Tensor

from negprompt_cli.cli.launch import exit_code_of
from negprompt_cli.config import ModelConfig, load_config
from negprompt_cli.data.encoding.features import EncodeOptions, encode_images, feature_store
from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.data.encoding.sharding import file_owners
from negprompt_cli.data.encoding.shared_model import load_shared
from negprompt_cli.data.encoding.stream import Cache, stream_features
from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.sets.filekinds import LeftOut
from negprompt_cli.data.sets.imagesets import load_image_set
from negprompt_cli.data.sets.pathlist import list_paths
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.parallel.sharded_prompts import PromptShard, deal
from negprompt_cli.engine.parallel.shared_clip import SharedClip
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.local_scores import local_scores
from negprompt_cli.steps.shared.score_inputs import make_score_inputs, score_options
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.steps.train_negative import run_train_negative
from negprompt_cli.steps.train_positive import run_train_positive

NAMES = (
    "red circle",
    "a green square of some size",
    "star",
    "blue triangle",
    "the very long name of a class",
    "dog",
    "cat",
)
"""Seven classes of several lengths: uneven for two processes and for three."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, some of them broken, and the model."""
    folder = tmp_path_factory.mktemp("ranks")
    draw(folder / "pets", {"cat": 7, "dog": 9, "fish": 6})
    write_images(folder / "mixed" / "good", 20, seed=9)
    write_broken(folder / "mixed" / "broken")
    (folder / "mixed" / "broken" / "dangling.jpg").unlink()
    write_shards(folder / "shards", [3, 4, 2, 3])
    small_clip(folder / "small")
    return folder


def image_set(folder: Path) -> Any:
    return load_image_set(
        str(folder), role="ood", data_root=folder, seed=0, limit=None, class_names=None, catalogue=None
    )


# What rank 0 does; without ranks, the same with one process.


def _encode(clip: Clip, given: dict[str, Any]) -> dict[str, Any]:
    options = EncodeOptions(batch_size=3, workers=given["workers"], on_error="skip")
    encoded = encode_images(clip, image_set(given["folder"]), options, Silent())
    again = encode_images(clip, image_set(given["folder"]), options, Silent())
    assert torch.equal(encoded.features, again.features), "what is in the cache now"
    return {"features": encoded.features.numpy(), "paths": list(encoded.images.paths), "skipped": encoded.skipped}


def _stream(clip: Clip, folder: Path) -> list[tuple[Any, Any, Any]]:
    paths = sorted(p for p in folder.rglob("*") if not p.is_dir())
    paths += list_paths([str(folder.with_name("shards"))], [], LeftOut())
    told = Silent()
    cache = Cache(feature_store(clip, "pil", told, partial=True), told)
    batches = list(stream_features(clip, iter(paths), batch_size=2))
    # From the second round on there are as many tar files as ranks.
    batches += list(stream_features(clip, list_paths([str(folder.with_name("shards"))], [], LeftOut()), batch_size=1))
    for _ in range(2):
        again = list(stream_features(clip, iter(paths), batch_size=2, cache=cache))
        assert [batch.paths for batch in again] == [batch.paths for batch in batches[: len(again)]]
        assert [batch.errors for batch in again] == [batch.errors for batch in batches[: len(again)]]
    return [(b.paths, b.errors, None if b.features is None else b.features.numpy()) for b in batches]


def _interrupt_and_go_on(clip: Clip, folder: Path) -> dict[str, Any]:
    """A broken image stops one job, and a caller leaves another half way; the ranks take the next one all the same."""
    options = EncodeOptions(batch_size=1, workers=0, cache=False)
    with pytest.raises(BrokenImage) as caught:
        encode_images(clip, image_set(folder / "mixed"), options, Silent())
    first = []
    for paths in (image_set(folder / "pets").paths, list_paths([str(folder / "shards")], [], LeftOut())):
        stream = stream_features(clip, paths, batch_size=1)
        first += [next(stream).paths[0] for _ in range(8)]
        stream.close()
    pets = encode_images(clip, image_set(folder / "pets"), options, Silent())
    return {"message": str(caught.value), "first": first, "features": pets.features.numpy()}


def _gradients(clip: Clip, given: dict[str, Any]) -> list[Any]:
    """Features and context gradients with all classes, some of them, and after shrinking; plain passes in between."""
    found = []
    # One chunk, several of them, and so many that most are checkpointed.
    budgets = {2**28: [None, [5, 0, 3]], 2**20: [None, [5, 0, 3, 1, 2], [6]], 2**19: [None, [2, 6, 1, 4]]}
    for budget, classes in ((budget, classes) for budget, parts in budgets.items() for classes in parts):
        encoder = clip.prompt_encoder(NAMES, context=given["contexts"].shape[-2], budget=budget)
        part = encoder if classes is None else encoder.subset(classes)
        contexts, weights = given["contexts"], given["weights"]
        if classes is not None:
            weights = weights[:, classes]
            contexts = contexts[:, classes] if contexts.dim() == 4 else contexts
        leaf = contexts.clone().requires_grad_()
        features = part(leaf)
        (features * weights).sum().backward()
        with torch.no_grad():
            plain = part(contexts)
        assert leaf.grad is not None
        found += [features.detach().numpy(), leaf.grad.numpy(), plain.numpy()]
        assert part.tokens.names == tuple(NAMES if classes is None else [NAMES[c] for c in classes])
    return found


def _shrink(clip: Clip, contexts: Tensor) -> tuple[list[str], float]:
    """A device of another rank that runs out of memory is said, and the pass is done again."""
    notices: list[str] = []
    encoder = clip.prompt_encoder(NAMES, context=4, budget=2**19, notice=notices.append)
    before = encoder(contexts.clone().requires_grad_())
    encoder.shrink()
    after = encoder(contexts.clone().requires_grad_())
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(40):
            encoder.shrink()
            encoder(contexts.clone().requires_grad_())
    return notices, float((after - before).detach().abs().max())


def _errors(clip: Clip, folder: Path) -> list[str]:
    """Errors of another rank reach rank 0 as what they are; a stale backward pass is refused."""
    said = []
    assert isinstance(clip, SharedClip)
    team = clip.shared.team
    team.call("model", {"number": 77, "config": {"name": f"local-dir:{folder / 'nowhere'}", "pretrained": None}})
    with pytest.raises(UsageError) as usage:
        team.answers()
    said.append(str(usage.value))
    with pytest.raises(UsageError) as own:
        load_shared(team, ModelConfig(name=f"local-dir:{folder / 'nowhere'}", pretrained=None), clip.compute)
    said.append(str(own.value))
    encoder = clip.prompt_encoder(NAMES, context=4, budget=2**19)
    contexts = torch.zeros(1, 4, clip.plan.width, requires_grad=True)
    early = encoder(contexts)
    encoder(contexts)
    with pytest.raises(RuntimeError, match="before the next forward pass"):
        early.sum().backward()
    return said


def _train(clip: Clip, given: dict[str, Path]) -> None:
    """A few epochs of both stages; every class is a chunk of its own, so that it can be dealt out."""
    config = load_config(
        flags={
            "model.name": clip.identity.name,
            "model.pretrained": None,
            "data.spec": str(given["pets"]),
            "compute.cache": False,
            "compute.workers": 0,
            "compute.image_batch": 4,
            "compute.memory": "256KiB",
            "positive.schedule.epochs": 2,
            "negative.schedule.epochs": 2,
        }
    )
    work = Workbench(config, Silent(), clip=clip)
    positive, negative = given["run"] / "positive.safetensors", given["run"] / "negative.safetensors"
    run_train_positive(work, positive, overwrite=False)
    run_train_negative(work, negative, positive=ArtifactFile(positive), overwrite=False)


def _local(clip: Clip, folder: Path) -> list[float]:
    work = bench(clip)
    prompts = make_prompts(clip, classes=NAMES)
    bank = make_score_inputs(work, prompts, ["gl-mcm"])
    options = score_options(work.config.evaluate)
    scores = local_scores(work, image_set(folder / "pets"), bank, ["gl-mcm"], temperature=1.0, options=options)
    return list(scores["gl-mcm"].tolist())


def test_features_are_those_of_one_process_bit_for_bit(folder: Path) -> None:
    given = {"folder": folder / "mixed", "workers": 0}
    alone = _encode(small_clip(folder / "small"), given)
    many = everywhere(3, folder, _encode_elsewhere, given)
    assert many["paths"] == alone["paths"]
    assert many["skipped"] == alone["skipped"]
    assert len(alone["skipped"]) > 15
    assert (many["features"] == alone["features"]).all()


def _encode_elsewhere(clip: Clip, given: dict[str, Any]) -> dict[str, Any]:
    os.environ["NEGPROMPT_CACHE"] = str(given["folder"].parent / "cache")
    return _encode(clip, given)


def test_a_stream_is_that_of_one_process(folder: Path) -> None:
    alone = _stream(small_clip(folder / "small"), folder / "mixed")
    many = everywhere(3, folder, _stream, folder / "mixed")
    assert [batch[:2] for batch in many] == [batch[:2] for batch in alone]
    for theirs, ours in zip(many, alone, strict=True):
        assert (theirs[2] is None) == (ours[2] is None)
        assert ours[2] is None or (theirs[2] == ours[2]).all()


def test_a_file_of_many_images_goes_to_one_rank(folder: Path) -> None:
    def batches(*counts: int, kind: str = "tar") -> list[list[Path]]:
        files = [folder / "shards" / f"{i:03d}.{kind}" for i in range(len(counts))]
        return [[file / f"{j}.png"] * 2 for file, count in zip(files, counts, strict=True) for j in range(count)]

    assert file_owners(batches(2, 3, 1, 1), 2) == [0, 0, 1, 1, 1, 0, 0]
    assert file_owners([[], *batches(1, 1, 1)], 3) == [0, 0, 1, 2]
    assert file_owners(batches(2, 3), 3) is None
    assert file_owners(batches(2, 3, 1, kind="folder"), 2) is None
    assert file_owners([*batches(2, 3), [Path("photo.jpg")]], 2) is None


def test_a_job_that_stops_half_way_leaves_the_ranks_ready(folder: Path) -> None:
    clip = small_clip(folder / "small")
    many = everywhere(2, folder, _interrupt_and_go_on, folder)
    alone = _interrupt_and_go_on(clip, folder)
    assert many["message"] == alone["message"]
    assert many["first"] == alone["first"]
    assert (many["features"] == alone["features"]).all()


@pytest.mark.parametrize("own", [False, True], ids=["shared", "class-specific"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_features_and_gradients_of_prompts(folder: Path, ranks: int, own: bool) -> None:
    clip = small_clip(folder / "small")
    generator = torch.Generator().manual_seed(ranks)
    contexts = clip.word_context("a photo of a")[None].repeat(2, 1, 1)
    contexts = contexts + 0.05 * torch.randn(contexts.shape, generator=generator)
    if own:
        contexts = contexts[:, None] + 0.05 * torch.randn(2, len(NAMES), *contexts.shape[1:], generator=generator)
    weights = torch.randn(2, len(NAMES), 64, generator=generator)
    given = {"contexts": contexts, "weights": weights}
    for theirs, ours in zip(everywhere(ranks, folder, _gradients, given), _gradients(clip, given), strict=True):
        assert (theirs == ours).all()


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The run folder of one process."""
    _train(small_clip(folder / "small"), {"pets": folder / "pets", "run": folder / "one"})
    return folder / "one"


@pytest.mark.parametrize("ranks", [2, 3])
def test_artifacts_are_those_of_one_process(folder: Path, trained: Path, tmp_path: Path, ranks: int) -> None:
    everywhere(ranks, folder, _train, {"pets": folder / "pets", "run": tmp_path})
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in trained.iterdir()}
    for name in ("positive.safetensors", "negative.safetensors"):
        theirs, ours = (load_file(run / name) for run in (tmp_path, trained))
        assert theirs.keys() == ours.keys()
        for key in ours:
            assert torch.equal(theirs[key], ours[key]), key


def test_a_smaller_budget_changes_nothing_and_ends(folder: Path) -> None:
    contexts = small_clip(folder / "small").word_context("a photo of a")[None]
    notices, difference = everywhere(2, folder, _shrink, contexts)
    assert difference < 1e-6
    assert any(notice.startswith("rank 1: out of memory") for notice in notices)
    assert any(notice.startswith("rank 0: out of memory") for notice in notices)


def test_errors_of_other_ranks_are_told(folder: Path) -> None:
    theirs, own = everywhere(2, folder, _errors, folder)
    assert theirs.startswith("rank 1 (")
    assert "open_clip_config.json does not exist" in theirs
    assert own.startswith("Model local-dir:"), "rank 0's own error is told where it has one"


def test_patch_scores_are_those_of_one_process(folder: Path) -> None:
    assert everywhere(3, folder, _local, folder) == _local(small_clip(folder / "small"), folder)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 12])
@pytest.mark.parametrize("budget", [2**19, 2**20, 2**28])
def test_chunks_are_dealt_out_whole_and_evenly(folder: Path, ranks: int, budget: int) -> None:
    clip = small_clip(folder / "small")
    tokens, shape = tokenize_prompts(NAMES, clip.tokenizer, clip.plan, context=4), (1, 4, clip.plan.width)
    encoder = clip.encoder_of(tokens, budget=budget)
    chunks = encoder.chunked(shape)
    shards = deal(chunks, ranks)
    assert sorted(c for shard in shards for c in shard) == list(range(len(NAMES)))
    for rank, shard in enumerate(shards):
        again = encoder.subset(shard).chunked(shape) if shard else []
        assert [tuple(shard[i] for i in chunk) for chunk in again] == chunks[rank::ranks], "the same chunks, in order"


def test_a_shard_without_classes_adds_nothing() -> None:
    shard = PromptShard(None, [])
    shard.forward(torch.ones(2, 4, 8), learning=True)
    assert shard.made.shape[:2] == (2, 0)
    shard.backward(torch.ones(2, 3, 5))
    assert shard.made.numel() == shard.chunks == 0
    assert not shard.shrink()


def test_exit_codes_of_ranks(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of({0: 2}) == 2
    # torchrun sends SIGTERM to those that were still there.
    assert exit_code_of({0: 3, 1: -signal.SIGTERM}) == 3
    assert capfd.readouterr().err == ""
    assert exit_code_of({0: 1, 2: -signal.SIGKILL}) == 1
    assert "Rank 2 was ended by SIGKILL" in capfd.readouterr().err
    assert exit_code_of({1: 1}) == 1
    assert "Rank 1 failed" in capfd.readouterr().err


# torchrun itself.


@contextmanager
def command(*arguments: object, module: str = "negprompt_cli") -> "Iterator[subprocess.Popen[str]]":
    """`python -m negprompt_cli`, or another module, with a thread for each process; none of it outlives the body."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    line, pipe = [sys.executable, "-m", module, *map(str, arguments)], subprocess.PIPE
    process = subprocess.Popen(
        line, env=variables, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        for pid in family(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def finished(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that ends in time."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def family(pid: int) -> list[int]:
    """A process and its descendants, as long as they run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, state, parent = _stat(status)
            if state != "Z":
                found.append((number, parent))
    return [n for n, _ in found if n == pid] + [d for n, parent in found if parent == pid for d in family(n)]


def _stat(path: Path) -> tuple[int, str, int]:
    number, rest = path.read_text().split(" (", 1)
    state, parent, *_ = rest.rsplit(") ", 1)[1].split()
    return int(number), state, int(parent)


def test_a_fit_on_two_processes(folder: Path, tmp_path: Path) -> None:
    fast = ["--set=positive.schedule.epochs=1", "--set=negative.schedule.epochs=1"]
    line = ["fit", folder / "pets", "--model", f"local-dir:{folder / 'small'}", "--device", "cpu", *fast]
    line += ["--workers", "0", "--image-batch", "4", "--no-cache", "--run", tmp_path]
    with command(*line, "--gpus", "2") as process:
        code, out, err = finished(process)
    assert code == 0, err
    assert "2 processes on one machine, over gloo" in err
    assert err.count("Model: local-dir") == 1, "only one process speaks"
    assert out == ""
    assert err.count(f"{tmp_path / 'negative.safetensors'}\n") == 1
    assert load_prompts(tmp_path / "negative.safetensors").kind == "negative"


def test_a_mistake_is_told_once_with_its_exit_code(folder: Path, tmp_path: Path) -> None:
    line = ["transfer", "--classes", tmp_path / "nowhere.txt", "--prompts", tmp_path / "none", "--gpus", "2"]
    with command(*line, "--device", "cpu") as process:
        code, out, err = finished(process)
    assert (code, out) == (2, ""), err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert f"There is no file {tmp_path / 'none'}" in err


def test_a_rank_that_is_killed_ends_the_job(folder: Path, tmp_path: Path) -> None:
    prompts = write_artifact(make_prompts(small_clip(folder / "small")), tmp_path / "prompts.safetensors")
    rows = tmp_path / "rows.csv"
    part = tmp_path / "rows.csv.part"
    line = ("score", "-", "--prompts", prompts, "--device", "cpu", "--gpus", "2", "--out", rows)
    with command(*line) as process:
        assert process.stdin is not None
        # The first round is two batches of 16; after it rank 0 waits for more of the list and rank 1 for a call.
        paths = sorted((folder / "mixed" / "good").iterdir()) * 2
        process.stdin.write("".join(f"{path}\n" for path in paths))
        process.stdin.flush()
        while not part.exists() or len(part.read_text().splitlines()) < 33:
            assert process.poll() is None, finished(process)
            time.sleep(0.1)
        (victim,) = (pid for pid in family(process.pid) if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        code = process.wait(timeout=60)
        assert time.monotonic() - killed < 30
        assert code == 1
        assert process.stderr is not None
        assert "Rank 1 was ended by SIGKILL" in process.stderr.read()
    assert not rows.exists()


@pytest.mark.slow
def test_two_machines_with_one_process_each() -> None:
    where = ("--nnodes", 2, "--nproc-per-node", 1, "--master-addr", "127.0.0.1", "--master-port", free_port())
    line = ("-m", "--", "negprompt_cli", "env", "--json", "--device", "cpu")
    torchrun = "torch.distributed.run"
    with (
        command(*where, "--node-rank", 0, *line, module=torchrun) as first,
        command(*where, "--node-rank", 1, *line, module=torchrun) as second,
    ):
        code, out, err = finished(first)
        assert code == 0, err
        assert finished(second)[:2] == (0, "")
    facts = json.loads(out)
    assert facts["backend"] == "gloo"
    assert [line.split(": ")[0] for line in facts["processes"]] == ["rank 0", "rank 1"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "says"), [(signal.SIGTERM, "Terminated"), (signal.SIGINT, "Interrupted")])
def test_a_stopped_training_says_how_to_go_on(folder: Path, tmp_path: Path, number: signal.Signals, says: str) -> None:
    line = ["train-positive", "--data", folder / "pets", "--model", f"local-dir:{folder / 'small'}", "--device", "cpu"]
    line += ["--workers", 0, "--gpus", 2, "--run", tmp_path, "--set=positive.schedule.epochs=100000"]
    line += ["--set=positive.schedule.sgd.lr=0.001"]
    with command(*line) as process:
        checkpoint = tmp_path / "positive.checkpoint.safetensors"
        while not checkpoint.is_file():
            assert process.poll() is None
            time.sleep(0.1)
        # A terminal's Ctrl-C reaches all processes, a cluster's SIGTERM the first.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        code, _, err = finished(process)
    assert code == 128 + number
    assert err.count("error:") == 1
    assert f"{says}. Finished epochs" in err
    assert "--resume" in err
    assert checkpoint.is_file()
