"""Judge stage 1's presets, LoCoOp's patch entropy among them, by ID data alone (`engine.criterion`), on two image towers.

    python tests/benchmarks/locoop_study.py [--assets FOLDER] [--tower FOLDER] [--seeds 0,1,2]

distilled    a vision transformer for 60 pixels, whose 6 x 6 patches are read as the package reads them
             (`engine.local_features`). It learns here to give lite-clip's image features; the text tower is lite-clip's
lite-clip    convolutional: its feature is the projected mean of 6 x 6 positions, so each position has a feature of its own,
             which serves as a patch here. The package itself reads patches of vision transformers only

The transformer learns from the training images of tiny-imagenet and imagenette without labels. A view is a random crop, half
of them mirrored, with a rectangle of another view pasted in. Its patches learn lite-clip's features of the same places, and
its class token learns their mean. `--tower` keeps the model there, or uses the one that is there. Muon needs PyTorch 2.9.

The problems are made of 40 classes of tiny-imagenet: 8 of 16 training images a class learn and the others are judged. No OOD
image takes part, and evaluation images only serve to say how accurate a tower is. The transformer has seen the judged
images, and those that play OOD, without labels.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from harness import SHARED
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from negprompt_cli.config import ModelConfig, load_config
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.data.sets.classnames import ClassLabel, class_label
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.criterion import SIDES, Figures, mean_of, problems
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.engine.local_features import encode_local, why_no_local_features
from negprompt_cli.engine.metrics.detection import evaluate_scores
from negprompt_cli.engine.prompt_learners.training import Features
from negprompt_cli.engine.scores.compute import compute_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.loss_presets import POSITIVE_PRESETS
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.learning import TrainingData, learn_negative, learn_positive
from negprompt_cli.steps.shared.workbench import Workbench

CLASSES = 40
SIDE, PATCH, GRID = 60, 10, 6
TOWER = {"image_size": SIDE, "patch_size": PATCH, "layers": 4, "width": 192, "head_width": 64}
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
BUDGET = 3 * 2**30
SCORES = {"mcm": "mcm, positives alone", "negprompt": "negprompt, under stage 2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=SHARED / "assets")
    parser.add_argument("--tower", type=Path, help="folder of the distilled model")
    parser.add_argument("--steps", type=int, default=1500, help="steps of the distillation")
    parser.add_argument("--seeds", default="0", help="comma separated")
    args = parser.parse_args()
    images, lite = args.assets / "images", args.assets / "models" / "lite-clip"
    seeds = [int(seed) for seed in args.seeds.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.tower or Path(temporary)
        if not (folder / WEIGHTS).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            distil(lite, sorted(images.glob("*imagenet*/train/*/*")), folder, args.steps)
        for place in (folder, lite):
            study(place, images / "tiny-imagenet", seeds)


def study(place: Path, images: Path, seeds: Sequence[int]) -> None:
    """Print facts about the model in a folder, and the table of the presets."""
    clip = open_model(place)
    classes = [class_label(key) for key in sorted(folder.name for folder in (images / "train").iterdir())[:CLASSES]]
    text = clip.encode_template([c.name for c in classes], template="a photo of a {}.", budget=BUDGET)
    data, new = (encode(clip, images / split, classes) for split in ("train", "val"))
    assert data.patches is not None
    seen, unseen = (float(((d.images @ text.T).argmax(1) == d.labels).float().mean()) for d in (data, new))
    near = (data.patches @ text.T).topk(CLASSES // 5).indices == data.labels[:, None, None]
    count = sum(p.numel() for p in clip.model.get_submodule("visual").parameters())
    print(
        f"\n{place}: {count:,} parameters in the image tower; zero-shot accuracy {seen:.1%} on the images of the problems, "
        f"{unseen:.1%} on evaluation images; the class of the image is among the nearest fifth of the classes for "
        f"{near.any(-1).float().mean():.1%} of the patches\n"
    )
    print(f"| `positive.loss` | score | {' | '.join(SIDES)} | mean |\n|{'---|' * 6}")
    for loss in POSITIVE_PRESETS:
        judge(clip, data, text, classes, loss, seeds)


def judge(
    clip: Clip, data: Features, text: Tensor, classes: Sequence[ClassLabel], loss: str, seeds: Sequence[int]
) -> None:
    """Learn both stages on the criterion's problems, and print a row for each score: means over problems and seeds."""
    assert data.patches is not None
    found: dict[tuple[str, str], list[Figures]] = {}
    for seed in seeds:
        bench = Workbench(load_config(flags={"positive.loss": loss, "seed": seed}), Silent(), clip=clip)
        for problem in problems(text, data.images, data.labels, seed=seed, draws=1, directions=1):
            # A unit vector is nearest to itself.
            kept, learn = ((a @ b.T).argmax(1) for a, b in ((problem.positives, text), (problem.images, data.images)))
            features = Features(problem.images, problem.labels, data.patches[learn])
            part = TrainingData(features, tuple(classes[i] for i in kept), "")
            positive = learn_positive(bench, part).prompts
            learned = learn_negative(bench, part, positive).prompts
            encoder = clip.prompt_encoder(part.names, context=learned.positive.shape[-2], budget=bench.budget)
            assert learned.negative is not None
            with torch.no_grad():
                positives, negatives = encoder(learned.positive)[0], encoder(learned.negative).transpose(0, 1)
            inputs = ScoreInputs(positives, negatives, None, clip.logit_scale, id_statistics=learned.id_statistics)
            judged = compute_scores(problem.judged, inputs, tuple(SCORES)).scores
            for side, images in problem.ood.items():
                ood = compute_scores(images, inputs, tuple(SCORES)).scores
                for score in SCORES:
                    made = evaluate_scores(judged[score], ood[score])
                    found.setdefault((score, side), []).append(Figures(made.auroc, made.fpr95_id_positive))
    for score, title in SCORES.items():
        sides = [mean_of(found[score, side]) for side in SIDES]
        cells = [f"{100 * one.auroc:.1f} / {100 * one.fpr95_id_positive:.1f}" for one in (*sides, mean_of(sides))]
        print(f"| `{loss}` | {title} | {' | '.join(cells)} |", flush=True)


def distil(lite: Path, paths: Sequence[Path], folder: Path, steps: int, batch: int = 64) -> None:
    """Train a vision transformer to give the image features of the model `lite`, and write the model to `folder`."""
    torch.manual_seed(0)
    teacher = open_model(lite, "bf16")
    maps = torch.cat([positions(teacher, paths[i : i + 32]) for i in range(0, len(paths), 32)]).movedim(-1, 1)
    config = json.loads((lite / CONFIG).read_text())
    config["model_cfg"]["vision_cfg"], config["preprocess_cfg"]["size"] = TOWER, [SIDE, SIDE]
    model = open_clip.CLIP(**config["model_cfg"])
    text = {name: value for name, value in teacher.model.state_dict().items() if not name.startswith("visual.")}
    model.load_state_dict(text, strict=False)
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "start.safetensors")
    clip = open_model(folder, "bf16")
    (folder / "start.safetensors").unlink()
    pixels = pixels_of(clip, paths)
    tower: Any = clip.model.visual.requires_grad_(True)
    hidden = {name: p for name, p in tower.named_parameters() if "resblocks" in name and p.ndim == 2}
    others = [p for name, p in tower.named_parameters() if name not in hidden]
    muon = torch.optim.Muon(hidden.values(), lr=0.02, weight_decay=0.05)
    adam = torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda n: min((n + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * n / steps)))
        for o in (muon, adam)
    ]
    for step in range(steps):
        chosen = torch.randint(len(paths), (batch,))
        seen, wanted = views_of(pixels[chosen], maps[chosen])
        # For so few patches the plain formula of attention is faster on a CPU than the default.
        with sdpa_kernel(SDPBackend.MATH):
            image, patches = encode_local(clip, seen)
            near_image = F.cosine_similarity(image, wanted.mean(1)).mean()
            near_patches = F.cosine_similarity(patches, wanted, -1).mean()
            tower.zero_grad()
            (-near_image - near_patches).backward()
        for optimiser, schedule in zip((muon, adam), schedules, strict=True):
            optimiser.step()
            schedule.step()
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}: cosine {near_image:.3f}, of patches {near_patches:.3f}", file=sys.stderr, flush=True
            )
    save_file({name: value.half().contiguous() for name, value in clip.model.state_dict().items()}, folder / WEIGHTS)


def views_of(pixels: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Views (B, 3, SIDE, SIDE) of images, and of their maps (B, F, H, W) the features (B, R, F) of the views' patches."""
    count = len(pixels)
    size = 0.6 + 0.4 * torch.rand(count)
    crop = torch.zeros(count, 2, 3)
    crop[:, 0, 0], crop[:, 1, 1] = size * (2 * torch.randint(2, (count,)) - 1), size
    crop[:, :, 2] = (1 - size)[:, None] * (2 * torch.rand(count, 2) - 1)
    made = []
    (top, left), (height, width) = torch.randint(GRID, (2,)).tolist(), torch.randint(GRID // 2 + 1, (2,)).tolist()
    for whole, side in ((pixels, SIDE), (maps, GRID)):
        places = F.affine_grid(crop, [count, 1, side, side], align_corners=False)
        view = F.grid_sample(whole, places, padding_mode="border", align_corners=False)
        unit = side // GRID
        pasted = (..., slice(top * unit, (top + height) * unit), slice(left * unit, (left + width) * unit))
        view[pasted] = view.roll(1, 0)[pasted]
        made.append(view)
    return made[0], made[1].flatten(2).movedim(1, -1)


def open_model(folder: Path, precision: str = "fp32") -> Clip:
    config = ModelConfig(name=f"local-dir:{folder}", pretrained=None)
    return load_clip(config, choose_compute("cpu", precision=precision))


def pixels_of(clip: Clip, paths: Sequence[Path]) -> Tensor:
    return torch.stack([clip.preprocess(Image.open(path).convert("RGB")) for path in paths])


def positions(clip: Clip, paths: Sequence[Path]) -> Tensor:
    """lite-clip's features (N, H, W, F) of all positions, not normalised; their mean is the feature of the image."""
    tower: Any = clip.model.visual
    dtype = clip.compute.dtype
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found: Tensor = tower.head(tower.trunk.forward_features(pixels_of(clip, paths)).movedim(1, -1)).float()
    return found


def encode(clip: Clip, folder: Path, classes: Sequence[ClassLabel], batch: int = 32) -> Features:
    """Features of the images of some classes, and of their patches."""
    paths = [(path, label) for label, c in enumerate(classes) for path in sorted((folder / c.key).iterdir())]
    images, patches = [], []
    for first in range(0, len(paths), batch):
        some = [path for path, _ in paths[first : first + batch]]
        if why_no_local_features(clip.model) is None:
            with torch.no_grad():
                image, local = encode_local(clip, pixels_of(clip, some))
        else:
            found = positions(clip, some).flatten(1, 2)
            image, local = F.normalize(found.mean(1), dim=-1), F.normalize(found, dim=-1)
        images.append(image)
        patches.append(local)
    return Features(torch.cat(images), torch.tensor([label for _, label in paths]), torch.cat(patches))


if __name__ == "__main__":
    main()
