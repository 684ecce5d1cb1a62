"""Fixtures that many tests share: the real assets where they are, and tiny random models where they are not needed."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from negprompt_cli.engine.clip import Clip, weights_digest
from negprompt_cli.engine.devices import Compute
from negprompt_cli.engine.model_identity import ModelIdentity

SHARED = Path(__file__).resolve().parents[2] / "shared"

# How long an example takes says something about what else the machine does.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

# As the command line has it: what is imported lives as long as the tests.
gc.set_threshold(5_000)

# The models of the tests are so small that a second thread only gets in the way.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real assets beside the checkout; tests that need it are skipped without it."""
    if not (SHARED / "assets").is_dir():
        pytest.skip(f"real assets are not here: {SHARED / 'assets'} does not exist")
    return SHARED


@pytest.fixture(scope="session")
def lite_clip_folder(shared: Path) -> Path:
    """The small real CLIP in open_clip's local-dir form."""
    return shared / "assets" / "models" / "lite-clip"


@pytest.fixture(scope="session")
def real_images(shared: Path) -> Path:
    """The folder of real image sets: tiny-imagenet, imagenette, textures, cifar10."""
    return shared / "assets" / "images"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads or writes the user's feature cache."""
    monkeypatch.setenv("NEGPROMPT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield


@pytest.fixture(scope="session")
def tokenizer() -> SimpleTokenizer:
    """CLIP's own tokenizer, which needs no download."""
    return SimpleTokenizer()


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw every floating parameter anew, so that norms, biases and scales differ from their neutral start values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.is_floating_point() or name.endswith("logit_scale"):
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() < 2:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    return model.eval()


def build_tiny_clip(*, embed: int = 16, image_size: int = 32, **text: Any) -> CLIP:
    """Build a random open_clip `CLIP` with a tiny tower on each side; `text` overrides its text configuration."""
    # Biases start at random, which what ran before must not change.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(
            embed_dim=embed,
            vision_cfg={"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": image_size},
            text_cfg={"width": 32, "heads": 2, "layers": 2, **text},
        )
    randomise(model)
    return model


@pytest.fixture(scope="session")
def tiny_clip(tokenizer: SimpleTokenizer) -> Clip:
    """A random tiny CLIP wrapped as the package does it, on the CPU in float32; 32-pixel images, 16 features."""
    return wrap_tiny_clip(build_tiny_clip(), tokenizer)


def wrap_tiny_clip(model: CLIP, tokenizer: SimpleTokenizer) -> Clip:
    """Wrap a model that `build_tiny_clip` built as the package does it, on the CPU in float32."""
    config = PreprocessCfg(size=(32, 32))
    return Clip.wrap(
        model,
        preprocess=image_transform_v2(config, is_train=False),
        preprocessing="tiny",
        tokenizer=tokenizer,
        identity=ModelIdentity("tiny", None, weights_digest(model)),
        compute=Compute(torch.device("cpu"), torch.float32, "test"),
    )


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """The small CLIP that ships with the package, unpacked to a folder."""
    from scoring_world import small_clip

    return small_clip(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., list[Path]]:
    """Write random JPEG files: `make_images(count, folder='images', size=48, seed=0)` returns their paths."""

    def make(count: int, *, folder: str = "images", size: int = 48, seed: int = 0) -> list[Path]:
        where = tmp_path / folder
        where.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(seed)
        paths = []
        for number in range(count):
            coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            path = where / f"{number:04d}.jpg"
            Image.fromarray(coarse).resize((size, size)).save(path)
            paths.append(path)
        return paths

    return make
