"""The contents of a prompt artifact, and the words that are nearest to its context vectors.

For each context vector it finds the nearest whole words of the model's vocabulary, by Euclidean distance of token
embeddings, as CoOp does for learned contexts (Zhou et al., IJCV 2022, section 4.4). Compare distances with `spacing`, the
median distance of a vocabulary word from its nearest neighbour: a vector that is farther from every word than this resembles
none of them. Parts of words are not shown, because they cannot be interpreted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negprompt_cli import schemas
from negprompt_cli.data.results.artifacts import Prompts, load_prompts
from negprompt_cli.engine.class_bond import cosine_between_classes, own_class_share
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import UsageError

SAMPLE = 512
"""Number of words in the sample for the spacing, which is enough for a median."""
SHOWN_CLASSES = 10
ENCODING_BYTES = 2**30
"""Memory for encoding an artifact's prompts."""


@dataclass(frozen=True)
class Vocabulary:
    """Whole words of a model's vocabulary: W words and their token embeddings (W, D)."""

    words: tuple[str, ...]
    vectors: Tensor

    def nearest(self, vectors: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """For each of M vectors (M, D) the nearest words with their Euclidean distances, nearest first."""
        # Differences instead of products, so that a word has distance 0 from itself.
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(vectors.to(self.vectors), self.vectors, compute_mode=exact)
        values, places = distances.topk(min(count, len(self.words)), dim=1, largest=False)
        return [
            [(self.words[p], v) for p, v in zip(row, far, strict=True)]
            for row, far in zip(places.tolist(), values.tolist(), strict=True)
        ]

    def spacing(self) -> float:
        """Median distance of a word from the word nearest to it, over an even sample of the vocabulary."""
        step = max(1, len(self.words) // SAMPLE)
        sample = self.vectors[::step]
        # The nearest word is the word itself.
        return float(torch.cdist(sample, self.vectors).topk(2, dim=1, largest=False).values[:, 1].median())


def read_vocabulary(clip: Clip) -> Vocabulary:
    """The whole words that a model's tokenizer knows as one token.

    Raises:
        UsageError: the tokenizer's vocabulary cannot be listed.
    """
    tokenizer: Any = clip.tokenizer
    if hasattr(tokenizer, "decoder"):
        # CLIP's byte-pair vocabulary marks the end of a word.
        pairs = {word.removesuffix("</w>"): i for i, word in tokenizer.decoder.items() if word.endswith("</w>")}
    elif hasattr(getattr(tokenizer, "tokenizer", None), "get_vocab"):
        pairs = _whole_words(tokenizer.tokenizer.get_vocab())
    else:
        raise UsageError(f"The vocabulary of {type(tokenizer).__name__} cannot be listed.", remedy="no-words")
    known = {word: i for word, i in pairs.items() if any(c.isalnum() for c in word)}
    embedding: Tensor = clip.plan.embedding.weight.detach().float()  # type: ignore[operator]
    return Vocabulary(tuple(known), embedding[torch.tensor(list(known.values()), device=embedding.device)])


def inspect_artifact(
    path: Path, *, load: Callable[[Prompts], Clip] | None, count: int = 5
) -> tuple[Prompts, dict[str, Any]]:
    """Describe an artifact.

    Args:
        path: a prompt artifact.
        load: loads the artifact's model, for the nearest words; None omits them.
        count: words per context vector.

    Returns:
        The artifact, and a document with its contents, how strongly negatives are bound to their classes (`class_bond`, null
        without a model or negatives) and, for each vector of each context set, its norm, its distance from the same vector
        of the positive context, and its nearest words.

    Raises:
        UsageError: the artifact is missing or invalid, or belongs to another model than `load` returns.
    """
    prompts = load_prompts(path)
    clip = load(prompts) if load else None
    vocabulary = read_vocabulary(clip) if clip else None
    document: dict[str, Any] = {
        "schema": schemas.INSPECTION,
        "path": str(path),
        "sha256": prompts.sha256,
        "bytes": path.stat().st_size,
        "kind": prompts.kind,
        "model": prompts.model.__dict__,
        "pixels": prompts.config.model.pixels.model_dump(),
        "written_with": dict(prompts.written_with),
        "seed": prompts.config.seed,
        "data": prompts.config.data.spec,
        "shots": prompts.config.data.shots,
        "limited": prompts.config.data.limit is not None,
        "loss": None if prompts.negative is None else prompts.config.negative.loss.model_dump(),
        "negatives": prompts.negatives_per_class,
        "score_form": prompts.score_form,
        "class_specific": prompts.class_specific,
        # The scores of the held-out images are left out, because there may be many.
        "calibration": prompts.calibration.model_dump(exclude={"scores"}) if prompts.calibration else None,
        "classes": [{"key": c.key, "name": c.name, "wnid": c.wnid} for c in prompts.classes],
        "learned_on_classes": prompts.learned_on,
        "tensors": {"positive": list(prompts.positive.shape)}
        | ({} if prompts.negative is None else {"negative": list(prompts.negative.shape)}),
        "parents": [p.model_dump() for p in prompts.parents],
        "training": [t.model_dump() for t in prompts.training],
        "class_bond": _class_bond(clip, prompts) if clip else None,
        "word_spacing": vocabulary.spacing() if vocabulary else None,
        "contexts": [
            _describe(name, vectors, origin, vocabulary, count) for name, vectors, origin in _context_sets(prompts)
        ],
    }
    return prompts, document


def _class_bond(clip: Clip, prompts: Prompts) -> dict[str, float | None] | None:
    """Share of negatives that are nearest to their own class, and the mean cosine of negatives of two classes."""
    if prompts.negative is None:
        return None
    encoder = clip.prompt_encoder(prompts.names, context=prompts.positive.shape[-2], budget=ENCODING_BYTES)
    with torch.no_grad():
        positives = encoder(prompts.positive.to(clip.device))[0]
        negatives = encoder(prompts.negative.to(clip.device)).transpose(0, 1)
    return {
        "own_class_share": own_class_share(positives, negatives),
        "cosine_between_classes": cosine_between_classes(negatives),
    }


def _whole_words(vocabulary: dict[str, int]) -> dict[str, int]:
    """Tokens that start a word, in sentence-piece or word-piece vocabularies, without their mark."""
    if any(token.startswith("▁") for token in vocabulary):
        return {t.removeprefix("▁"): i for t, i in vocabulary.items() if t.startswith("▁") and len(t) > 1}
    return {t: i for t, i in vocabulary.items() if not t.startswith(("##", "[", "<"))}


def _context_sets(prompts: Prompts) -> list[tuple[str, Tensor, Tensor | None]]:
    """Name, vectors (M, D) and positive vectors (M, D) of each context set; those of the first classes if classes differ."""
    sets: list[tuple[str, Tensor, Tensor | None]] = []
    groups = [("positive", prompts.positive)]
    if prompts.negative is not None:
        groups.append(("negative", prompts.negative))
    for kind, tensor in groups:
        for j, context in enumerate(tensor):
            name = kind if kind == "positive" else f"{kind} {j + 1}"
            own = None if kind == "positive" else prompts.positive[0]
            if context.dim() == 2:
                sets.append((name, context, own))
                continue
            for i, label in enumerate(prompts.classes[:SHOWN_CLASSES]):
                sets.append((f"{name}, {label.name}", context[i], None if own is None else own[i]))
    return sets


def _describe(
    name: str, vectors: Tensor, origin: Tensor | None, vocabulary: Vocabulary | None, count: int
) -> dict[str, Any]:
    near = vocabulary.nearest(vectors, count) if vocabulary else [[] for _ in vectors]
    return {
        "context": name,
        "vectors": [
            {
                "norm": float(vector.norm()),
                "from_positive": None if origin is None else float((vector - origin[i]).norm()),
                "words": [{"word": word, "distance": distance} for word, distance in near[i]],
            }
            for i, vector in enumerate(vectors)
        ],
    }
