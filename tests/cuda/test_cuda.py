"""The CUDA path of everything: encoding, training, scoring, lack of memory, and a job of one process, against the CPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_tiny_clip
from open_clip.tokenizer import SimpleTokenizer
from scoring_world import NAMES, make_prompts, run, small_clip, write_artifact, write_images

from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.demo.model import unpack_model
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.engine.judge import judge
from negprompt_cli.engine.judgement import prompt_scores
from negprompt_cli.engine.prompt_learners.prompt_encoder import PromptEncoder
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts
from negprompt_cli.engine.prompt_learners.towers import plan_text_path
from negprompt_cli.engine.scores.score_inputs import ScoreInputs

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here"),
]
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True, scope="module")
def _exact_products() -> Iterator[None]:
    """Float32 products in float32, so that differences from the CPU are rounding only."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{unpack_model(tmp_path_factory.mktemp('model') / 'small')}"


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return small_clip(tmp_path_factory.mktemp("cpu") / "small")


def on_gpu(model: str, precision: str) -> Clip:
    return load_clip(ModelConfig(name=model, pretrained=None), choose_compute("cuda", precision=precision))


def test_auto_chooses_the_gpu_and_says_why():
    chosen = choose_compute("auto")
    assert chosen.device == GPU
    assert torch.cuda.get_device_name(0) in chosen.reason


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("bf16", 0.999), ("fp16", 0.9999)])
def test_image_features_are_those_of_the_cpu(model: str, cpu: Clip, precision: str, least: float):
    size = cpu.model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    pixels = torch.randn(16, 3, height, width, generator=torch.Generator().manual_seed(0))
    features = on_gpu(model, precision).encode_images(pixels)
    assert features.device == GPU and features.dtype == torch.float32
    cosines = (features.cpu() * cpu.encode_images(pixels)).sum(1)
    assert float(cosines.min()) > least


@pytest.mark.parametrize("budget", [1 << 40, 1 << 21])
def test_prompt_features_and_gradients_are_those_of_the_cpu(tokenizer: SimpleTokenizer, budget: int):
    names = [f"{colour} {shape}" for colour in ("red", "blue", "chartreuse") for shape in ("circle", "tall hexagon")]
    made = []
    for device in (torch.device("cpu"), GPU):
        tower = build_tiny_clip(width=64, heads=4, layers=3).to(device)
        plan = plan_text_path(tower)
        tokens = tokenize_prompts(names, tokenizer, plan, context=4)
        encoder = PromptEncoder(tower, plan, tokens, device=device, budget=budget)
        start = 0.1 * torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(1))
        contexts = start.to(device).requires_grad_()
        features = encoder(contexts)
        features.square().mul(torch.arange(16, device=device)).sum().backward()
        assert contexts.grad is not None
        made.append((features.detach().cpu(), contexts.grad.cpu()))
    (a, gradient_a), (b, gradient_b) = made
    torch.testing.assert_close(b, a, atol=1e-5, rtol=0)
    assert float((gradient_b - gradient_a).norm() / gradient_a.norm()) < 1e-4


def test_a_lack_of_memory_is_met_with_smaller_chunks(tokenizer: SimpleTokenizer):
    names = [f"thing number {number}" for number in range(300)]
    tower = build_tiny_clip(width=256, heads=4, layers=6).to(GPU)
    plan = plan_text_path(tower)
    tokens = tokenize_prompts(names, tokenizer, plan, context=16)
    contexts = torch.randn(4, 16, 256, generator=torch.Generator().manual_seed(0)).to(GPU)
    expected = PromptEncoder(tower, plan, tokens, device=GPU, budget=1 << 40)(contexts)
    total = torch.cuda.get_device_properties(GPU).total_memory
    said: list[str] = []
    torch.cuda.empty_cache()
    # All at once takes over a gigabyte with gradients.
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + (400 << 20)) / total)
    try:
        encoder = PromptEncoder(tower, plan, tokens, device=GPU, budget=1 << 40, notice=said.append)
        learned = contexts.clone().requires_grad_()
        features = encoder(learned)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert said
    torch.testing.assert_close(features.detach(), expected.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", prompt_scores())
def test_scores_are_those_of_the_cpu(name: str):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.nn.functional.normalize(torch.randn(150, 64, generator=generator), dim=1)
    bank = ScoreInputs(drawn[:20], drawn[20:60].view(20, 2, 64), drawn[60:80], 100.0)
    here, there = judge(drawn[80:], bank, name), judge(drawn[80:].to(GPU), bank, name)
    assert (here.predictions == there.predictions).all()
    np.testing.assert_allclose(there.scores, here.scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(there.probabilities, here.probabilities, rtol=1e-4)


def test_the_commands_agree_with_the_cpu(model: str, tmp_path: Path):
    for seed, name in enumerate(NAMES):
        write_images(tmp_path / "id/train" / name.replace(" ", "_"), 8, seed=seed)
        write_images(tmp_path / "id/val" / name.replace(" ", "_"), 8, seed=10 + seed)
    write_images(tmp_path / "ood", 24, seed=99)
    figures = {}
    for device in ("cpu", "cuda"):
        asked = [
            "--model",
            model,
            "--device",
            device,
            "--precision",
            "fp32",
            "--run",
            tmp_path / device,
            "--workers",
            0,
        ]
        data = ["--data", tmp_path / "id"]
        for step in ("train-positive", "train-negative"):
            done = run(step, *data, *asked, "-q")
            assert done.exit_code == 0, done.output
        done = run("evaluate", *data, *asked, "--ood", tmp_path / "ood", "--json")
        assert done.exit_code == 0, done.output
        figures[device] = {row["score"]: row["auroc"] for row in json.loads(done.stdout)["rows"]}
    assert figures["cuda"] == pytest.approx(figures["cpu"], abs=0.02)


def test_torchrun_with_one_process_uses_nccl(model: str, cpu: Clip, tmp_path: Path):
    write_images(tmp_path / "images", 12, seed=1)
    artifact = write_artifact(replace(make_prompts(cpu), model=cpu.identity), tmp_path / "negative.safetensors")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    score = ["score", tmp_path / "images", "--prompts", artifact, "--model", model, "--device", "cuda"]
    rows = []
    for start in (
        [sys.executable, "-m", "negprompt_cli"],
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "--", "negprompt_cli"],
    ):
        command = [str(part) for part in (*start, *score, "--precision", "fp32", "--format", "jsonl")]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        rows.append([json.loads(line) for line in done.stdout.splitlines()])
    for alone, job in zip(*rows, strict=True):
        assert job["prediction"] == alone["prediction"]
        assert job["score"] == pytest.approx(alone["score"], abs=1e-5)
