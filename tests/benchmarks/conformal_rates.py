"""Measure the rates of a calibrated detector on real images, over 200 random splits of held-out ID images in half.

    python tests/benchmarks/conformal_rates.py [--assets FOLDER] [--splits 200]

One half is the calibration set, the other serves as new ID images; OOD images are added. The output has means over the
splits with 95 % intervals (mean +- 1.96 standard errors; the splits are independent draws from the same images):

    acceptance          share of new ID images that the threshold for 95 % accepts; the expected value is exactly
                        m / (n + 1), if the threshold accepts m of n calibration images
    in the interval     share of splits whose new images are accepted as often as the beta-binomial 95 % interval of the
                        calibration says
    FDR at q            share of ID images among those that Benjamini-Hochberg selects by p-values; the guarantee is at
                        most q times the share of ID images, here one half
    OOD selected        share of OOD images among the selected ones of all OOD images
    false alarms        share of splits in which the unshifted half is called shifted at the level 0.05; promised at most
    shifts seen         the same for a batch with 10 % OOD images

Rates of ID images alone are also measured over ten times as many splits, because shares of splits need more of them.

Features are those of the assets: tiny-imagenet's first 100 classes with lite-clip (OOD: the other 100 classes, textures),
and ImageNet's 1000 classes with OpenAI's ViT-B/32 (OOD: DTD). Nothing is tuned with these results.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.stats import betabinom
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli import fit_embeddings
from negprompt_cli.engine.metrics.calibration import choose_threshold
from negprompt_cli.engine.metrics.conformal import batch_verdict, p_values, select_ood

ASSETS = Path(__file__).resolve().parents[3] / "shared" / "assets"
ACCEPTANCE, RATES, LEVEL = 0.95, (0.05, 0.1, 0.2), 0.05


def problems(folder: Path) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Return the scores of held-out ID images, and of OOD images by set, for each model."""
    lite, vit = load_file(folder / "lite-clip.safetensors"), load_file(folder / "clip-vit-b32.safetensors")

    def unit(features: Tensor) -> Tensor:
        return normalize(features.float(), dim=-1)

    seen, kept = lite["train.labels"] < 100, lite["val.labels"] < 100
    small = fit_embeddings(
        unit(lite["text"])[:100],
        unit(lite["train.images"])[seen],
        lite["train.labels"][seen],
        logit_scale=41.6902,
    )
    validation = unit(lite["val.images"])
    learn = torch.arange(len(vit["imagenet.labels"])) % 4 < 2
    images = unit(vit["imagenet.images"])
    large = fit_embeddings(unit(vit["imagenet.text"]), images[learn], vit["imagenet.labels"][learn])
    return {
        "lite-clip, 100 classes": (
            small.score(validation[kept]).numpy(),
            {
                "other classes": small.score(validation[~kept]).numpy(),
                "textures": small.score(unit(lite["textures.images"])).numpy(),
            },
        ),
        "ViT-B/32, 1000 classes": (
            large.score(images[~learn]).numpy(),
            {"DTD": large.score(unit(vit["dtd.images"])).numpy()},
        ),
    }


def mean(values: list[float]) -> str:
    """Return a mean with its interval, in per cent."""
    found = np.array(values)
    half = 196 * found.std(ddof=1) / np.sqrt(len(found))
    return f"{100 * found.mean():.2f} [{100 * found.mean() - half:.2f}, {100 * found.mean() + half:.2f}]"


def halves(inside: np.ndarray, splits: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.random.Generator]]:
    """Yield calibration and new scores of random halves, and the generator for further draws."""
    generator = np.random.default_rng(seed)
    for _ in range(splits):
        order = generator.permutation(len(inside))
        yield inside[order[: len(inside) // 2]], inside[order[len(inside) // 2 :]], generator


def show_id(inside: np.ndarray, splits: int) -> None:
    """Print the rates of ID images alone."""
    accepted, within, alarms, expected = [], [], [], 0.0
    for calibration, new, _ in halves(inside, splits, 0):
        chosen = choose_threshold(calibration, acceptance=ACCEPTANCE)
        count = int((new >= chosen.value).sum())
        accepted.append(count / len(new))
        expected = chosen.accepted / (chosen.images + 1)
        law = betabinom(len(new), chosen.accepted, chosen.images - chosen.accepted + 1)
        within.append(float(law.ppf(0.025) <= count <= law.ppf(0.975)))
        alarms.append(float(batch_verdict(new, calibration, chosen.value, level=LEVEL).shifted))
    print(f"  {len(inside) // 2} calibration images, {len(inside) - len(inside) // 2} new ones")
    for title, some in ((splits // 10, splits // 10), (splits, splits)):
        print(f"  {title} splits; per cent")
        print(f"    acceptance        {mean(accepted[:some])}   expected {100 * expected:.2f}")
        print(f"    in the interval   {mean(within[:some])}   expected at least 95")
        print(f"    false alarms      {mean(alarms[:some])}   promised at most {100 * LEVEL:g}")


def show_ood(inside: np.ndarray, name: str, outside: np.ndarray, splits: int) -> None:
    """Print the rates of mixtures of ID and OOD images."""
    seen: list[float] = []
    false: dict[float, list[float]] = {rate: [] for rate in RATES}
    power: dict[float, list[float]] = {rate: [] for rate in RATES}
    for calibration, new, generator in halves(inside, splits, 1):
        foreign = generator.permutation(outside)[: len(new)]
        p = p_values(np.concatenate([new[: len(foreign)], foreign]), calibration)
        for rate in RATES:
            selected = p <= select_ood(p, rate)
            false[rate].append(selected[: len(foreign)].sum() / max(1, selected.sum()))
            power[rate].append(selected[len(foreign) :].mean())
        threshold = choose_threshold(calibration, acceptance=ACCEPTANCE).value
        delivery = np.concatenate([new[:270], foreign[:30]])
        seen.append(float(batch_verdict(delivery, calibration, threshold, level=LEVEL).shifted))
    print(f"  {name}, {splits} splits; per cent: shifts seen {mean(seen)} (30 of 300 images)")
    for rate in RATES:
        print(
            f"    FDR at {rate:<5g} {mean(false[rate])}   promised at most {50 * rate:g}; OOD selected {mean(power[rate])}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder with features/")
    parser.add_argument("--splits", type=int, default=200)
    args = parser.parse_args()
    for title, (inside, outside) in problems(args.assets / "features").items():
        print(title)
        show_id(inside, 10 * args.splits)
        for name, scores in outside.items():
            show_ood(inside, name, scores, args.splits)


if __name__ == "__main__":
    main()
