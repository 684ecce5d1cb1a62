"""Train the package's small CLIP: `python -m negprompt_cli.demo.train_clip --out DIR --seed 0`.

The model is open_clip's plain CLIP class (a ViT with 4 layers for 48 pixels, a text transformer with 3 layers, CLIP's
vocabulary). It is trained from scratch with CLIP's contrastive loss on images of the demonstration world and varied
captions.

A real CLIP has seen almost everything in training. In the same way this model has seen every composition of the world's
words, including the near OOD and the novel compositions, and scenes of two things or none. So "OOD" in the demonstration
means the same as for a real CLIP: not among the ID classes, but not necessarily unseen. The model has seen no digit, no
photograph and no image of the demonstration's evaluation, which come from other random streams.

There is no augmentation, no weight averaging, and no choice among checkpoints: the last step is packed.
`model/small-clip.yaml` records command, seed, steps, time and accuracy of the packed model.
"""

import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import save_file

from negprompt_cli.demo.captions import write_caption
from negprompt_cli.demo.drawing import draw, draw_class, sample_view
from negprompt_cli.demo.model import CONFIG, TRAINING, WEIGHTS, TrainingRecord, pack_model
from negprompt_cli.demo.world import World, load_world

MODEL_CFG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 48, "layers": 4, "width": 96, "head_width": 32, "patch_size": 12},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
}
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PREPROCESS_CFG: dict[str, Any] = {
    "size": [48, 48],
    "mode": "RGB",
    "mean": MEAN,
    "std": STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
ZERO_SHOT = "a photo of a {}."
CAPTIONS_PER_IMAGE = 4
# More positions than any caption has. Later positions are not trained and are stored as zeros.
TRAINED_POSITIONS = 24
# CLIP's upper limit of the logit scale.
LARGEST_LOG_SCALE = math.log(100)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Images (n, side, side, 3) uint8, and the tokens of their captions (n, CAPTIONS_PER_IMAGE, 77) int64."""

    images: NDArray[np.uint8]
    tokens: torch.Tensor


def draw_pairs(world: World, *, count: int, generator: np.random.Generator) -> Pairs:
    """Draw `count` scenes of the whole world (80 % one thing, 12 % two, 8 % none) and write their captions."""
    tokenizer = open_clip.SimpleTokenizer()
    things = world.all_things()
    # A quarter of the compositions have plain surfaces, but these should be more frequent in the images.
    weights = np.array([3.0 if thing.texture is None else 1.0 for thing in things])
    images, captions = [], []
    for _ in range(count):
        number = int(generator.choice([0, 1, 2], p=[0.08, 0.8, 0.12]))
        scene = [things[int(i)] for i in generator.choice(len(things), size=number, p=weights / weights.sum())]
        view = sample_view(world, things=number, generator=generator)
        images.append(draw(world, scene, view, generator=generator))
        captions += [write_caption(scene, view, generator=generator) for _ in range(CAPTIONS_PER_IMAGE)]
    tokens: torch.Tensor = tokenizer(captions)
    return Pairs(images=np.stack(images), tokens=tokens.reshape(count, CAPTIONS_PER_IMAGE, -1))


def normalise(images: NDArray[np.uint8]) -> torch.Tensor:
    """Convert (n, side, side, 3) uint8 to (n, 3, side, side) as the model's preprocessing does, without resizing."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def train(
    pairs: Pairs, vocabulary: torch.Tensor, *, steps: int, batch: int, rate: float, generator: torch.Generator
) -> tuple[open_clip.CLIP, float]:
    """Train a CLIP whose token embedding has only the rows of `vocabulary`, and return it with its final loss.

    Args:
        pairs: the images and captions.
        vocabulary: sorted token ids of the captions; the end of text must remain the largest id, as CLIP needs.
        steps: number of optimiser steps.
        batch: number of image-caption pairs per step.
        rate: peak learning rate, with linear warm-up over 5 % of the steps and then a cosine decay to zero.
        generator: source of randomness for batch order and choice of captions; torch's seed determines initial weights.
    """
    text_cfg = MODEL_CFG["text_cfg"] | {"vocab_size": len(vocabulary), "context_length": TRAINED_POSITIONS}
    model = open_clip.CLIP(**MODEL_CFG | {"text_cfg": text_cfg})
    tokens = torch.searchsorted(vocabulary, pairs.tokens[..., :TRAINED_POSITIONS].contiguous())
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    warm_up = max(1, steps // 20)

    def factor(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    contrastive = open_clip.ClipLoss()
    losses: list[float] = []
    for step in range(steps):
        chosen = torch.randint(len(pairs.images), (batch,), generator=generator)
        which = torch.randint(CAPTIONS_PER_IMAGE, (batch,), generator=generator)
        image_features, text_features, scale = model(normalise(pairs.images[chosen.numpy()]), tokens[chosen, which])
        loss = contrastive(image_features, text_features, scale)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, LARGEST_LOG_SCALE)
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            recent = sum(losses[-100:]) / 100
            typer.echo(f"step {step + 1}/{steps}  loss {recent:.3f}  logit scale {float(scale.detach()):.1f}", err=True)
    return model.eval(), sum(losses[-100:]) / len(losses[-100:])


def full_state(model: open_clip.CLIP, vocabulary: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the fp16 state for CLIP's full vocabulary and context length; unused rows and positions are zero."""
    state: dict[str, torch.Tensor] = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    text = MODEL_CFG["text_cfg"]
    embedding = torch.zeros(text["vocab_size"], text["width"], dtype=torch.float16)
    embedding[vocabulary] = state["token_embedding.weight"]
    # Token 0 pads captions after the end of text. Causal attention never uses it, so its row was not trained.
    embedding[0] = 0
    positions = torch.zeros(text["context_length"], text["width"], dtype=torch.float16)
    positions[:TRAINED_POSITIONS] = state["positional_embedding"]
    return state | {"token_embedding.weight": embedding, "positional_embedding": positions}


@torch.inference_mode()
def zero_shot_accuracy(folder: Path, world: World, names: Sequence[str], *, each: int, seed: int) -> float:
    """Return the share of new images, `each` per name, whose nearest prompt is that of their own name."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    generator = np.random.default_rng([seed, 1])
    images = np.stack([draw_class(world, name, generator=generator) for name in names for _ in range(each)])
    text = model.encode_text(tokenizer([ZERO_SHOT.format(name) for name in names]), normalize=True)
    features = model.encode_image(normalise(images), normalize=True)
    predicted = (features @ text.T).argmax(dim=1)
    return float((predicted == torch.arange(len(names)).repeat_interleave(each)).float().mean())


def main(
    out: Annotated[Path, typer.Option(help="Folder that receives small-clip.zip and small-clip.yaml.")],
    seed: Annotated[int, typer.Option(help="Seed of images, captions, weights and batches.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1800,
    batch: Annotated[int, typer.Option(min=2, help="Image-caption pairs in a step.")] = 192,
    images: Annotated[int, typer.Option(min=2, help="Distinct images drawn.")] = 40_000,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
) -> None:
    """Train the demonstration's small CLIP and pack it."""
    started = time.monotonic()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    world = load_world()
    pairs = draw_pairs(world, count=images, generator=np.random.default_rng([seed, 0]))
    typer.echo(f"drew {images} images in {time.monotonic() - started:.0f} s", err=True)
    vocabulary = torch.from_numpy(np.unique(pairs.tokens.numpy()))
    generator = torch.Generator().manual_seed(seed)
    model, loss = train(pairs, vocabulary, steps=steps, batch=batch, rate=rate, generator=generator)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        save_file(full_state(model, vocabulary), folder / WEIGHTS)
        every = [thing.name for thing in world.all_things()]
        record = TrainingRecord(
            command=f"python -m negprompt_cli.demo.train_clip --out DIR --seed {seed} --steps {steps} "
            f"--batch {batch} --images {images} --rate {rate:g} --threads {threads}",
            seed=seed,
            steps=steps,
            batch=batch,
            images=images,
            seconds=round(time.monotonic() - started, 1),
            threads=threads,
            versions={name: version(name) for name in ("torch", "open_clip_torch", "numpy")},
            loss=round(loss, 4),
            logit_scale=round(float(model.logit_scale.detach().exp()), 2),
            accuracy={
                "id": round(zero_shot_accuracy(folder, world, world.id, each=100, seed=seed), 4),
                "all": round(zero_shot_accuracy(folder, world, every, each=4, seed=seed), 4),
            },
        )
        (folder / TRAINING).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        pack_model(folder, out, training=record)
    typer.echo(record.model_dump_json(indent=1))


if __name__ == "__main__":
    typer.run(main)
