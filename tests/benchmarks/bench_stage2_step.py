"""Time one stage-2 step, compared with a step of the official code, which encodes images every time and full-length prompts.

The model is ViT-B/16 with random weights. The official side encodes the batch's images without gradients, and the negative
prompts of all classes with 77 tokens forward and backward (in groups, see `bench_prompt_encode`). It also encodes the
positives again, but that time is not counted. The package's side is a step of SGD on cached features.
"""

import argparse
from typing import Any

import torch
from bench_prompt_encode import full_length
from harness import Row, imagenet_names, take_turns, text_of, vit_b16
from torch.nn.functional import normalize

from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.prompt_learners.prompt_encoder import PromptEncoder
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts
from negprompt_cli.engine.prompt_learners.towers import plan_text_path
from negprompt_cli.engine.prompt_learners.training import Features, Job, Sgd, negative_objective, train

TARGET = 20.0
VECTORS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step-classes", type=int, default=100)
    parser.add_argument("--step-negatives", type=int, default=2, help="negatives per class")
    parser.add_argument("--step-batch", type=int, default=64)
    parser.add_argument("--step-repeats", type=int, default=3)


def measure(args: argparse.Namespace) -> list[Row]:
    import open_clip

    device = torch.device(args.device)
    model = vit_b16(device)
    plan = plan_text_path(model)
    names = imagenet_names(args.step_classes)
    tokens = tokenize_prompts(names, open_clip.get_tokenizer("ViT-B-16"), plan, context=VECTORS)
    encoder = PromptEncoder(model, plan, tokens, device=device, budget=3 * 2**30)
    generator = torch.Generator().manual_seed(1)
    start = (0.02 * torch.randn(args.step_negatives, VECTORS, plan.width, generator=generator)).to(device)
    pixels = torch.randn(args.step_batch, 3, 224, 224, generator=generator).to(device)
    images = normalize(torch.randn(args.step_batch, 512, generator=generator), dim=-1).to(device)
    labels = torch.randint(len(names), (args.step_batch,), generator=generator).to(device)
    positives = normalize(torch.randn(len(names), 512, generator=generator), dim=-1).to(device)
    weights = torch.randn(args.step_negatives, len(names), 512, generator=generator).to(device)

    def ours() -> None:
        train(
            Job(
                start=start,
                encoder=encoder,
                data=Features(images, labels),
                objective=negative_objective(NegativeLoss("separation", 0.0, 1.0), positives=positives, scale=100.0),
                method=Sgd(lr=0.1, batch_size=args.step_batch),
                epochs=1,
                judges=positives,
            )
        )

    encode_image: Any = model.encode_image

    def official() -> None:
        with torch.no_grad():
            encode_image(pixels)
        full_length(model, plan, tokens, start.clone().requires_grad_(), weights)

    turns = take_turns(ours, official, repeats=args.step_repeats, device=device)
    what = f"stage-2 step, {args.step_classes} classes x {args.step_negatives}, batch {args.step_batch}"
    met = turns.speedup >= TARGET
    return [Row(what, text_of(turns.ours), text_of(turns.reference), f"{turns.speedup:.1f}x", f">= {TARGET:g}x", met)]
