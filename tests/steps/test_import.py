"""Other people's checkpoints: laid out as they write them, refused where they could run code, and the way back."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scoring_world import NAMES, make_prompts, run, write_artifact, write_images
from torch.optim.lr_scheduler import LRScheduler

from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.sets.class_list import ordered_classes, read_class_list
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.coop import coop_checkpoint, read_checkpoint


class ConstantWarmupScheduler(LRScheduler):
    """Dassl's scheduler: it keeps the one that follows it, which keeps the optimiser."""

    def __init__(self, optimizer: torch.optim.Optimizer, successor: LRScheduler) -> None:
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [1e-5 for _ in self.base_lrs]


def dassl(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What Dassl's save_checkpoint hands to torch.save, with CoOp's optimiser and schedulers."""
    parameter = torch.nn.Parameter(state["ctx"].float().clone() if "ctx" in state else draw(2, 2))
    optimizer = torch.optim.SGD([parameter], lr=0.002, momentum=0.9)
    scheduler = ConstantWarmupScheduler(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50.0))
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler.step()
    return {
        "state_dict": OrderedDict(state),
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "val_result": np.float64(71.5),
    }


def coop_tokens(clip: Clip, names: tuple[str, ...], length: int) -> dict[str, torch.Tensor]:
    """CoOp's buffers: embeddings of "X ... X name." without the X's, from whole sentences, in half precision."""
    filler = " ".join(["X"] * length)
    ids = clip.tokenizer([f"{filler} {name}." for name in names])
    vectors = clip.model.token_embedding(ids).detach().half()
    return {"token_prefix": vectors[:, :1], "token_suffix": vectors[:, 1 + length :]}


class Harmful:
    """Anything that is not a tensor: unpickling it would call a function."""

    def __reduce__(self) -> Any:
        return print, ("this must never be printed",)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES))
    return path


@pytest.fixture
def width(clip: Clip) -> int:
    return clip.plan.width


def imported(clip: Clip, checkpoint: Path, classes: Path) -> Any:
    out = checkpoint.with_name("imported.safetensors")
    asked = ["--classes", classes, "--model", clip.identity.name, "--device", "cpu", "--out", out]
    return run("import", checkpoint, *asked), out


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02


def test_coop_and_locoop(clip: Clip, classes: Path, width: int, tmp_path: Path):
    context = draw(16, width).half()
    file = tmp_path / "model.pth.tar-50"
    torch.save(dassl({"ctx": context, **coop_tokens(clip, NAMES, 16)}), file)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    result, out = imported(clip, file, classes)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr
    made = load_prompts(out)
    assert made.kind == "positive"
    assert made.positive.equal(context.float()[None])
    assert made.names == list(NAMES)
    assert made.parents[0].kind == "coop"
    (image,) = write_images(tmp_path / "photos", 1)
    scored = run("score", image, "--prompts", out, "--device", "cpu", "--format", "jsonl")
    feature = clip.encode_images(clip.preprocess(__import__("PIL.Image").Image.open(image).convert("RGB"))[None])
    with torch.no_grad():
        positives = clip.prompt_encoder(NAMES, context=16, budget=2**28)(context.float()[None])[0]
    # There are no negatives, so the score is MCM's.
    expected = float(torch.softmax(positives @ feature[0], dim=0).max())
    assert json.loads(scored.stdout)["score"] == pytest.approx(expected, abs=1e-5)


def test_one_context_per_class(clip: Clip, classes: Path, width: int, tmp_path: Path):
    torch.save({"state_dict": {"ctx": draw(3, 4, width)}}, tmp_path / "csc.pth")
    result, out = imported(clip, tmp_path / "csc.pth", classes)
    assert result.exit_code == 0, result.output
    assert load_prompts(out).positive.equal(draw(3, 4, width)[None])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_official_state_dict(clip: Clip, classes: Path, width: int, tmp_path: Path, prefix: str):
    negative = draw(2, 4, width)
    state = {
        f"{prefix}prompt_learner.ctx_positive": draw(1, 4, width),
        f"{prefix}prompt_learner.ctx_negative": negative,
        f"{prefix}image_encoder.weight": draw(5, 5),
    }
    torch.save(state, tmp_path / "md.pth")
    result, out = imported(clip, tmp_path / "md.pth", classes)
    assert result.exit_code == 0, result.output
    assert "full stop" in result.stderr
    made = load_prompts(out)
    assert made.kind == "negative"
    assert made.negative is not None and made.negative.equal(negative)
    assert run("transfer", "--prompts", out, "--classes", classes, "--out", tmp_path / "t.safetensors").exit_code == 0


def test_official_contexts_per_class_and_empty_negatives(width: int, tmp_path: Path):
    # Class-specific contexts come as (K, p, M, D); stage 1 saves negatives without elements.
    torch.save({"ctx_positive": draw(3, 1, 4, width), "ctx_negative": draw(3, 2, 4, width)}, tmp_path / "csc.pth")
    found = read_checkpoint(tmp_path / "csc.pth")
    assert found.positive.shape == (1, 3, 4, width)
    assert found.negative is not None and found.negative.shape == (2, 3, 4, width)
    assert found.negative[1, 2].equal(draw(3, 2, 4, width)[2, 1])
    torch.save({"ctx_positive": draw(1, 4, width), "ctx_negative": torch.empty(0)}, tmp_path / "one.pth")
    assert read_checkpoint(tmp_path / "one.pth").negative is None


@pytest.mark.parametrize("negatives", [0, 2])
def test_coop_and_back(clip: Clip, classes: Path, tmp_path: Path, negatives: int):
    prompts = make_prompts(clip, negatives=negatives)
    artifact = write_artifact(prompts, tmp_path / "mine.safetensors")
    done = run("export", "--prompts", artifact, "--format", "coop", "-q")
    assert done.exit_code == 0, done.output
    file = Path(done.stdout.strip())
    assert ("no negative prompts" in done.stderr) == bool(negatives)
    # As CoOp's own loader opens it.
    state = torch.load(file, weights_only=True)["state_dict"]
    assert state["ctx"].shape == (4, clip.plan.width)
    _, out = imported(clip, file, classes)
    assert load_prompts(out).positive.equal(prompts.positive)
    assert coop_checkpoint(load_prompts(out))["state_dict"]["ctx"].equal(state["ctx"])


CALLS = ("builtins.print", "os.system", "builtins.getattr", "operator.methodcaller", "functools.partial", "torch.load")


class Calls:
    """Pickles as a call of any function with a harmless text."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        module, _, name = self.name.rpartition(".")
        return getattr(__import__(module), name), ("this must never be printed",)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_in_a_checkpoint_is_run(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], width: int):
    context = draw(4, width)
    torch.save({"state_dict": {"ctx": context}, "val_result": [Calls(name), Harmful()]}, tmp_path / "bad.pth")
    assert read_checkpoint(tmp_path / "bad.pth").positive.equal(context[None])
    assert "never" not in capfd.readouterr().out


def test_an_old_file_with_more_than_tensors_is_refused_and_one_without_is_read(tmp_path: Path, width: int):
    plain, full = {"state_dict": {"ctx": draw(4, width)}}, {"state_dict": {"ctx": draw(4, width)}, "x": Harmful()}
    for name, content in (("plain", plain), ("full", full)):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "plain").positive.equal(draw(4, width)[None])
    with pytest.raises(UsageError, match=r"before 1\.6") as caught:
        read_checkpoint(tmp_path / "full")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["module.", "state_dict.prompt_learner.", "model.prompt_learner.", "_orig_mod.module.learner."]
)
def test_wrappers_are_seen_through(clip: Clip, classes: Path, width: int, tmp_path: Path, prefix: str):
    tensors = {"ctx": draw(4, width), **coop_tokens(clip, NAMES, 4)}
    state = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    # As Lightning saves it: settings of other classes, states of optimisers, the model's own weights.
    state |= {"model.image_encoder.conv1.weight": draw(3, 3), "model.logit_scale": clip.model.logit_scale.detach()}
    content = {
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"ctx": draw(2)}}}],
        "hyper_parameters": Harmful(),
    }
    torch.save(content, tmp_path / "last.ckpt")
    result, out = imported(clip, tmp_path / "last.ckpt", classes)
    assert result.exit_code == 0, result.output
    assert load_prompts(out).positive.equal(draw(4, width)[None])
    assert "1 other tensors" in result.stderr and "image_encoder.conv1.weight" in result.stderr


def test_views_and_types_of_tensors_are_read_as_torch_reads_them(tmp_path: Path):
    base = draw(6, 8)
    for i, tensor in enumerate(
        (base.T[2:6, 1:5], base[::2], base.bfloat16(), base.double()[1:], torch.nn.Parameter(base))
    ):
        torch.save({"ctx": tensor}, tmp_path / f"{i}.pth")
        assert read_checkpoint(tmp_path / f"{i}.pth").positive.equal(tensor.detach().float()[None])


def test_kgcoop_and_prograd_are_coop_at_inference(clip: Clip, classes: Path, width: int, tmp_path: Path):
    plain = {"ctx": draw(4, width), **coop_tokens(clip, NAMES, 4)}
    unused = {"bias_vectors": draw(1, 8), "meta_net.linear1.weight": draw(8, 8), "meta_net.linear1.bias": draw(8)}
    for name, state in (("prograd", plain), ("kgcoop", plain | unused)):
        torch.save(dassl(state), tmp_path / f"{name}.pth")
        result, out = imported(clip, tmp_path / f"{name}.pth", classes)
        assert result.exit_code == 0, result.output
        assert load_prompts(out).positive.equal(draw(4, width)[None])
        out.unlink()


@pytest.mark.parametrize(
    ("more", "method"),
    [
        ({"meta_net.linear1.weight": (4, 8), "meta_net.linear2.weight": (8, 4)}, "CoCoOp"),
        ({"prompt_learner.compound_prompts_text.0": (4, 8), "prompt_learner.proj.weight": (8, 8)}, "MaPLe"),
        ({"image_encoder.transformer.resblocks.0.VPT_shallow": (4, 8)}, "VPT"),
        ({"prompt_learner.ZS_image_encoder.conv1.weight": (4, 8), "image_encoder.VPT": (4, 8)}, "PromptSRC"),
        ({"text_feature_residuals": (3, 8), "base_text_features": (3, 8)}, "TaskRes"),
        ({"adapter.fc.0.weight": (2, 8)}, "CLIP-Adapter"),
        ({"prefix_MLP.0.weight": (2, 8)}, "KgCoOp with a network"),
        ({"temperature_net.weight": (2, 8)}, "temperature_net.weight"),
    ],
)
def test_methods_that_learn_more_are_refused_by_name(more: dict[str, tuple[int, ...]], method: str, tmp_path: Path):
    for prefix in ("", "module."):
        state = {f"{prefix}{name}": draw(*shape) for name, shape in more.items()}
        first = next(iter(more))
        learner = "prompt_learner." if first.startswith(("prompt_learner", "image_encoder")) else ""
        torch.save(dassl(state | {f"{prefix}{learner}ctx": draw(4, 8)}), tmp_path / "model.pth.tar-5")
        with pytest.raises(UsageError, match=method):
            read_checkpoint(tmp_path / "model.pth.tar-5")


def test_files_without_contexts_are_named(tmp_path: Path, width: int):
    learner = torch.nn.Linear(2, 2)
    cases: list[tuple[Any, str]] = [
        (torch.nn.Parameter(draw(8, 4)), "one tensor of shape"),
        (learner, "an object of torch.nn.modules.linear.Linear"),
        ({"a.ctx": draw(4, width), "b.ctx": draw(4, width)}, "several contexts: a.ctx, b.ctx"),
        ({"ctx": draw(4, 5, width), "token_prefix": draw(12, 1, width)}, "PLOT"),
    ]
    for content, says in cases:
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(UsageError, match=says):
            read_checkpoint(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"")
        archive.writestr("x/code/__torch__.py", b"class Linear(Module):")
    with pytest.raises(UsageError, match="TorchScript"):
        read_checkpoint(tmp_path / "x.pt")


def test_another_backbone_of_the_same_width_is_refused(clip: Clip, classes: Path, width: int, tmp_path: Path):
    tokens = coop_tokens(clip, NAMES, 4)
    state = {"ctx": draw(4, width), **tokens, "token_prefix": tokens["token_prefix"] + 0.1}
    torch.save(dassl(state), tmp_path / "other.pth")
    result, out = imported(clip, tmp_path / "other.pth", classes)
    assert result.exit_code == 2 and "another model" in result.stderr
    torch.save({"prompt_learner.ctx": draw(4, width), "logit_scale": torch.tensor(1.0)}, tmp_path / "scale.pth")
    result, out = imported(clip, tmp_path / "scale.pth", classes)
    assert result.exit_code == 2 and "logit scale" in result.stderr
    assert not out.exists()


def test_class_names_are_compared_with_those_of_the_training(clip: Clip, width: int, classes: Path, tmp_path: Path):
    swapped = (NAMES[1], NAMES[0], NAMES[2])
    torch.save({"ctx": draw(4, width), **coop_tokens(clip, swapped, 4)}, tmp_path / "shared.pth")
    result, _ = imported(clip, tmp_path / "shared.pth", classes)
    assert result.exit_code == 0 and "2 of 3 classes had other names" in result.stderr
    (tmp_path / "imported.safetensors").unlink()
    torch.save({"ctx": draw(3, 4, width), **coop_tokens(clip, swapped, 4)}, tmp_path / "own.pth")
    result, _ = imported(clip, tmp_path / "own.pth", classes)
    assert result.exit_code == 2 and f"{NAMES[0]}, {NAMES[1]}" in result.stderr
    torch.save({"ctx": draw(4, width), **coop_tokens(clip, ("a", "b"), 4)}, tmp_path / "two.pth")
    result, _ = imported(clip, tmp_path / "two.pth", classes)
    assert result.exit_code == 0 and "trained on 2 classes" in result.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><title>Google Drive - Virus scan warning</title>", "web page"),
        (b"\x1f\x8b\x08\x00 and so on", "archive"),
        (bytes(4000), "zeros"),
        (b'{"names": []}', "JSON"),
    ],
)
def test_what_stands_in_the_place_of_a_checkpoint_is_named(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "model.pth.tar-50").write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_checkpoint(tmp_path / "model.pth.tar-50")


def test_damaged_and_hostile_pickles_are_refused(tmp_path: Path):
    good = io.BytesIO()
    torch.save({"ctx": draw(4, 8)}, good)
    names = b"".join(b"cmodule\nname%d\n0" % i for i in range(2000))
    cases = [
        b"\x80\x02r\xff\xff\xff\x7f.",  # a memo of two billion places
        b"\x80\x02}\x82\x01.",  # an extension code
        b"\x80\x05\x96" + (1 << 34).to_bytes(8, "little") + b".",  # a bytearray of 16 GiB
        b"\x80\x02" + names + b"}.",
        b"\x80\x02(lp0\n" + b"(" * 5000,
        b"\x80\x02cbuiltins\neval\n.",
    ]
    for i, content in enumerate(cases):
        path = tmp_path / f"{i}.pth"
        rewrite(good.getvalue(), path, content)
        with pytest.raises(UsageError, match=r"\d\.pth"):
            read_checkpoint(path)


def rewrite(archive: bytes, path: Path, pickled: bytes) -> None:
    """The same archive with another pickle."""
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for member in old.infolist():
            new.writestr(member.filename, pickled if member.filename.endswith("data.pkl") else old.read(member))


def test_what_does_not_fit_is_refused(clip: Clip, classes: Path, width: int, tmp_path: Path):
    cases: list[tuple[Any, str]] = [
        ({"state_dict": {"ctx": draw(4, width + 1)}}, "--model"),
        ({"state_dict": {"ctx": draw(5, 4, width)}}, "for 5 classes, but 3"),
        ({"state_dict": {"ctx": draw(width)}}, "shape"),
        ({"state_dict": {"ctx": draw(4, width) / 0}}, "finite"),
        ({"state_dict": {"weight": draw(4, width)}}, "neither CoOp's ctx"),
        ({"ctx_positive": draw(2, 4, width)}, "2 positive contexts"),
        ([1, 2], "not a state dict"),
        ({"state_dict": {"ctx": draw(76, width)}}, "tokens"),
    ]
    for number, (content, says) in enumerate(cases):
        file = tmp_path / f"{number}.pth"
        torch.save(content, file)
        result, out = imported(clip, file, classes)
        assert result.exit_code == 2, says
        assert says in result.stderr
        assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 not a zip"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.pth"):
        read_checkpoint(tmp_path / "x.pth")
    with pytest.raises(UsageError, match="no checkpoint"):
        read_checkpoint(tmp_path)


def test_a_folder_and_an_artifact_are_told_of(clip: Clip, tmp_path: Path):
    file = tmp_path / "prompt_learner" / "model.pth.tar-5"
    file.parent.mkdir()
    torch.save({"ctx": draw(4, 8)}, file)
    with pytest.raises(UsageError, match=f"Name the file in it: {file}"):
        read_checkpoint(tmp_path)
    artifact = write_artifact(make_prompts(clip), tmp_path / "mine.safetensors")
    with pytest.raises(UsageError, match="Use it directly, without import"):
        read_checkpoint(artifact)


def test_a_context_in_a_safetensors_file(tmp_path: Path, width: int):
    save_file({"prompt_learner.ctx": draw(4, width)}, tmp_path / "ctx.safetensors")
    assert read_checkpoint(tmp_path / "ctx.safetensors").positive.equal(draw(4, width)[None])


def test_names_may_repeat_and_wnids_are_keys(tmp_path: Path):
    (tmp_path / "names.txt").write_text("n01440764 tench\nmissile\n# no class\nmissile\n")
    labels = ordered_classes(read_class_list(tmp_path / "names.txt"))
    assert [(c.key, c.name, c.wnid) for c in labels] == [
        ("n01440764", "tench", "n01440764"),
        ("missile", "missile", None),
        ("missile (2)", "missile", None),
    ]
