"""Time prompt encoding, forward and backward, compared with the full-length encoding of CoOp and the official code.

The text tower is that of ViT-B/16 with random weights; names are real ImageNet names; negative contexts need gradients. The
reference runs the model's own 77-token forward with inserted contexts, in groups of names whose gradients are added. This
is the work of one large batch, but with less memory. Both sides encode the same names. Exactness is checked in float32 on
all names and in float64 on a few.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
from harness import Row, imagenet_names, take_turns, text_of, vit_b16
from torch import Tensor, nn
from torch.nn.functional import normalize

from negprompt_cli.engine.prompt_learners.prompt_encoder import PromptEncoder
from negprompt_cli.engine.prompt_learners.spliced import encode_spliced
from negprompt_cli.engine.prompt_learners.tokens import PromptTokens, tokenize_prompts
from negprompt_cli.engine.prompt_learners.towers import TowerPlan, plan_text_path

TARGET = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt-names", type=int, default=200, help="class names")
    parser.add_argument("--prompt-contexts", type=int, default=2, help="negative contexts")
    parser.add_argument("--prompt-vectors", type=int, default=4, help="vectors of each context")
    parser.add_argument("--prompt-memory-gib", type=float, default=3.0, help="budget for activations")
    parser.add_argument("--prompt-repeats", type=int, default=3)


def measure(args: argparse.Namespace) -> list[Row]:
    import open_clip

    device = torch.device(args.device)
    model = vit_b16(device)
    plan = plan_text_path(model)
    names = imagenet_names(args.prompt_names)
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    tokens = tokenize_prompts(names, tokenizer, plan, context=args.prompt_vectors)
    encoder = PromptEncoder(model, plan, tokens, device=device, budget=int(args.prompt_memory_gib * 2**30))
    generator = torch.Generator().manual_seed(1)
    start = 0.02 * torch.randn(args.prompt_contexts, args.prompt_vectors, plan.width, generator=generator)
    weights = torch.randn(args.prompt_contexts, len(names), 512, generator=generator).to(device)

    def ours() -> tuple[Tensor, Tensor]:
        contexts = start.to(device, copy=True).requires_grad_()
        features = encoder(contexts)
        (features * weights).sum().backward()
        assert contexts.grad is not None
        return features.detach(), contexts.grad

    def reference() -> tuple[Tensor, Tensor]:
        contexts = start.to(device, copy=True).requires_grad_()
        return full_length(model, plan, tokens, contexts, weights)

    (a, gradient), (b, expected) = ours(), reference()
    off, gradient_off = float((a - b).abs().max()), float((gradient - expected).norm() / expected.norm())
    turns = take_turns(ours, reference, repeats=args.prompt_repeats, device=device, warm=False)
    few = names[:10]
    double = _double_error(model, plan, tokenize_prompts(few, tokenizer, plan, context=args.prompt_vectors), start)
    what = f"prompt encode forward + backward, {len(names)} names, {args.prompt_contexts} contexts of {args.prompt_vectors}"
    return [
        Row(
            what,
            text_of(turns.ours),
            text_of(turns.reference),
            f"{turns.speedup:.1f}x",
            f">= {TARGET:g}x",
            turns.speedup >= TARGET,
        ),
        Row("- features, largest difference", f"{off:.1e}", "full encode", "", "<= 1e-5", off <= 1e-5),
        Row("- context gradient, relative", f"{gradient_off:.1e}", "full encode", "", "<= 1e-4", gradient_off <= 1e-4),
        Row("- the larger of both in float64", f"{double:.1e}", "full encode", "", "<= 1e-9", double <= 1e-9),
    ]


def full_length(
    model: nn.Module, plan: TowerPlan, tokens: PromptTokens, contexts: Tensor, weights: Tensor, *, group: int = 20
) -> tuple[Tensor, Tensor]:
    """Return features (C, K, F) of the model's full-length forward, and the gradient of their weighted sum."""
    full = replace(plan, path="full", causal=None)
    parts = []
    for first in range(0, len(tokens), group):
        chosen: Sequence[int] = range(first, min(first + group, len(tokens)))
        features = normalize(encode_spliced(model, full, tokens, contexts, chosen), dim=-1)
        (features * weights[:, first : first + group]).sum().backward()
        parts.append(features.detach())
    assert contexts.grad is not None
    return torch.cat(parts, dim=1), contexts.grad


def _double_error(model: nn.Module, plan: TowerPlan, tokens: PromptTokens, start: Tensor) -> float:
    """Return the larger of feature difference and relative gradient difference in float64, on the CPU."""
    model = model.double().cpu()
    plan = plan_text_path(model)
    weights = torch.randn(len(start), len(tokens), 512, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mine, theirs = (start.double().requires_grad_() for _ in range(2))
    features = PromptEncoder(model, plan, tokens, device=torch.device("cpu"))(mine)
    (features * weights).sum().backward()
    expected, gradient = full_length(model, plan, tokens, theirs, weights)
    assert mine.grad is not None
    return max(
        float((features.detach() - expected).abs().max()), float((mine.grad - gradient).norm() / gradient.norm())
    )
