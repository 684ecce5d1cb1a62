"""The table of scores: names, formulas, papers and requirements. Reports and model cards quote it.

Importing this module needs no torch; a score's function is imported at its first use. Notation of the formulas: f is the
image feature, P_i the positive, N_ij the negative and Z_i the zero-shot prompt features, all L2-normalised; <,> is the
cosine, tau the temperature, s the logit scale.

With a single class some scores are the same for every image (`constant_scores`), and commands refuse them or leave them
out: a softmax over one class is always 1 (mcm, entropy, gl-mcm), there is no next class (logit-gap), and the class is its
own background (mahalanobis-relative). With two or three classes these scores vary little. The other scores do not compare
classes.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from negprompt_cli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from negprompt_cli.engine.scores.score_inputs import ScoreInputs


@dataclass(frozen=True)
class Score:
    """The record of one score.

    Attributes:
        name: the name on the command line.
        title: the score in a few words.
        formula: the score of one image, higher = more ID.
        paper: authors, title and venue.
        url: address of the paper.
        requires: fields of `ScoreInputs` that must not be None, and `local_features` for patch features.
        function: `module:function` within `engine`; it maps an `ImageBlock`, or for a test-time score a `Stream`, to scores.
        least_classes: smallest number of ID classes; with fewer the score is the same for every image.
    """

    name: str
    title: str
    formula: str
    paper: str
    url: str
    requires: tuple[str, ...]
    function: str
    least_classes: int = 1

    def load(self) -> "Callable[[Any], Tensor]":
        """Import and return the function that maps a block of B images to (B,) scores, or a stream of N to (N,) float64."""
        module, function = self.function.split(":")
        loaded: Callable[[Any], Tensor] = getattr(importlib.import_module(f"negprompt_cli.engine.{module}"), function)
        return loaded


def table(*scores: Score) -> Mapping[str, Score]:
    """Index scores by name."""
    return MappingProxyType({score.name: score for score in scores})


_MCM = "Ming et al., Delving into out-of-distribution detection with vision-language representations, NeurIPS 2022"
_MCM_URL = "https://arxiv.org/abs/2211.13445"
_MAX_LOGIT = "Hendrycks et al., Scaling out-of-distribution detection for real-world settings, ICML 2022"
_MAX_LOGIT_URL = "https://arxiv.org/abs/1911.11132"
_LOGIT_GAP = "Liang et al., Revisiting logit distributions for reliable out-of-distribution detection, NeurIPS 2025"
_LOGIT_GAP_URL = "https://arxiv.org/abs/2510.20134"
_NEGREFINE = (
    "Ansari et al., NegRefine: refining negative label-based zero-shot OOD detection, ICCV 2025, with WordNet in place of "
    "its language model"
)
_NEGREFINE_URL = "https://arxiv.org/abs/2507.09795"
_NEGLABEL = "mean_g sum_i exp(s <Z_i,f>) / (sum_i exp(s <Z_i,f>) + sum over {} in group g of exp(s <w,f>))"

SCORES = table(
    Score(
        name="negprompt",
        title="MCM extended by the negative prompts",
        formula="L(b) + L(b|p) + L(c) + L(g) + L(n|p + 1), L(z) = log sigmoid(pi z / sqrt(3)), of five statistics "
        "in units of ID images (engine/scores/id_statistics); the paper's form is "
        "max_i exp(<P_i,f>/tau) / (sum_i exp(<P_i,f>/tau) + sum_ij exp(<N_ij,f>/tau))",
        paper="Li et al., Learning transferable negative prompts for out-of-distribution detection, CVPR 2024",
        url="https://arxiv.org/abs/2404.03248",
        requires=("positives", "negatives"),
        function="scores.mcm_extended:mcm_extended",
    ),
    Score(
        name="mcm",
        title="maximum concept matching on the learned positives",
        formula="max_i exp(<P_i,f>/tau) / sum_i exp(<P_i,f>/tau)",
        paper=_MCM,
        url=_MCM_URL,
        requires=("positives",),
        function="scores.mcm:mcm",
        least_classes=2,
    ),
    Score(
        name="mcm-zero-shot",
        title="maximum concept matching on zero-shot prompts",
        formula="max_i exp(<Z_i,f>/tau) / sum_i exp(<Z_i,f>/tau)",
        paper=_MCM,
        url=_MCM_URL,
        requires=("zero_shot",),
        function="scores.mcm:mcm_zero_shot",
        least_classes=2,
    ),
    Score(
        name="mcm-clip-t",
        title="maximum concept matching at CLIP's own temperature",
        formula="max_i exp(s <P_i,f>) / sum_i exp(s <P_i,f>)",
        paper=_MCM,
        url=_MCM_URL,
        requires=("positives",),
        function="scores.mcm:mcm_clip_temperature",
        least_classes=2,
    ),
    Score(
        name="max-logit",
        title="highest cosine with a learned positive",
        formula="max_i <P_i,f>",
        paper=_MAX_LOGIT,
        url=_MAX_LOGIT_URL,
        requires=("positives",),
        function="scores.max_logit:max_logit",
    ),
    Score(
        name="max-logit-zero-shot",
        title="highest cosine with a zero-shot prompt",
        formula="max_i <Z_i,f>",
        paper=_MAX_LOGIT,
        url=_MAX_LOGIT_URL,
        requires=("zero_shot",),
        function="scores.max_logit:max_logit_zero_shot",
    ),
    Score(
        name="logit-gap",
        title="highest cosine minus the mean of the next ones",
        formula="max_i <P_i,f> - mean of the next N cosines, N a fifth of the classes",
        paper=_LOGIT_GAP,
        url=_LOGIT_GAP_URL,
        requires=("positives",),
        function="scores.logit_gap:logit_gap",
        least_classes=2,
    ),
    Score(
        name="logit-gap-fit",
        title="highest cosine minus the mean of the next ones, their number chosen on ID images",
        formula="max_i <P_i,f> - mean of the next N cosines, N with the largest mean gap of ID training images "
        "minus that of mixtures of them",
        paper=_LOGIT_GAP,
        url=_LOGIT_GAP_URL,
        requires=("positives", "train_features", "train_labels"),
        function="scores.logit_gap:logit_gap_fit",
        least_classes=2,
    ),
    Score(
        name="energy",
        title="negative free energy of the positives' logits",
        formula="log sum_i exp(s <P_i,f>)",
        paper="Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020",
        url="https://arxiv.org/abs/2010.03759",
        requires=("positives",),
        function="scores.energy:energy",
    ),
    Score(
        name="entropy",
        title="negative entropy of the class probabilities",
        formula="sum_i p_i log p_i, p = softmax_i(<P_i,f>/tau)",
        paper="Chan et al., Entropy maximization and meta classification for out-of-distribution detection in "
        "semantic segmentation, ICCV 2021",
        url="https://arxiv.org/abs/2012.06575",
        requires=("positives",),
        function="scores.entropy:entropy",
        least_classes=2,
    ),
    Score(
        name="gl-mcm",
        title="global and local maximum concept matching",
        formula="mcm(f) + w max_r mcm(f_r), f_r the feature of patch r",
        paper="Miyai et al., GL-MCM: global and local maximum concept matching for zero-shot "
        "out-of-distribution detection, IJCV 2025",
        url="https://arxiv.org/abs/2304.04521",
        requires=("positives", "local_features"),
        function="scores.gl_mcm:gl_mcm",
        least_classes=2,
    ),
    Score(
        name="neglabel",
        title="zero-shot positives against words far from the class names",
        formula=_NEGLABEL.format("w"),
        paper="Jiang et al., Negative label guided OOD detection with pretrained vision-language models, ICLR 2024",
        url="https://openreview.net/forum?id=xUO1HXz4an",
        requires=("zero_shot", "words"),
        function="scores.neglabel:neglabel",
    ),
    Score(
        name="neglabel-images",
        title="zero-shot positives against words far from ID images",
        formula=_NEGLABEL.format("w far from ID images"),
        paper="Xu et al., Mind the way you select negative texts: pursuing the distance consistency in OOD "
        "detection with VLMs, CVPR 2026",
        url="https://arxiv.org/abs/2603.02618",
        requires=("zero_shot", "words_by_images"),
        function="scores.neglabel:neglabel_images",
    ),
    Score(
        name="neglabel-filtered",
        title="zero-shot positives against words without proper names and subclasses",
        formula=_NEGLABEL.format("w that are no proper names and no subclasses"),
        paper=_NEGREFINE,
        url=_NEGREFINE_URL,
        requires=("zero_shot", "words_filtered"),
        function="scores.neglabel:neglabel_filtered",
    ),
    Score(
        name="neglabel-pairs",
        title="the filtered words, and the best text that names a class and a word",
        formula="neglabel-filtered + 2 max_{i,w} exp(s <t_iw,f>) / (exp(s <t_iw,f>) + exp(s <w,f>)), i and w of the five "
        "nearest names and words, t_iw the text 'i and w'",
        paper=_NEGREFINE,
        url=_NEGREFINE_URL,
        requires=("zero_shot", "words_filtered", "pair_features"),
        function="scores.neglabel_pairs:neglabel_pairs",
    ),
    Score(
        name="csp",
        title="zero-shot positives against nouns and phrases of adjective and superclass",
        formula=_NEGLABEL.format("noun or phrase w"),
        paper="Chen et al., Conjugated semantic pool improves OOD detection with pre-trained vision-language "
        "models, NeurIPS 2024",
        url="https://arxiv.org/abs/2410.08611",
        requires=("zero_shot", "csp_words"),
        function="scores.csp:csp",
    ),
    Score(
        name="knn",
        title="distance to the k-th nearest ID training image",
        formula="-||f - t_(k)||, t_(k) the k-th nearest training feature",
        paper="Sun et al., Out-of-distribution detection with deep nearest neighbors, ICML 2022",
        url="https://arxiv.org/abs/2204.06507",
        requires=("train_features",),
        function="scores.knn:knn",
    ),
    Score(
        name="mahalanobis",
        title="Mahalanobis distance to the nearest class mean",
        formula="-min_c (f-mu_c)' Sigma^-1 (f-mu_c), Sigma shared by the classes",
        paper="Lee et al., A simple unified framework for detecting out-of-distribution samples and "
        "adversarial attacks, NeurIPS 2018",
        url="https://arxiv.org/abs/1807.03888",
        requires=("train_features", "train_labels"),
        function="scores.mahalanobis:mahalanobis",
    ),
    Score(
        name="mahalanobis-relative",
        title="Mahalanobis distance relative to the background",
        formula="-min_c ((f-mu_c)' Sigma^-1 (f-mu_c) - (f-mu_0)' Sigma_0^-1 (f-mu_0))",
        paper="Ren et al., A simple fix to Mahalanobis distance for improving near-OOD detection, 2021",
        url="https://arxiv.org/abs/2106.09022",
        requires=("train_features", "train_labels"),
        function="scores.mahalanobis:mahalanobis_relative",
        least_classes=2,
    ),
)

_MEANING: Mapping[str, str] = MappingProxyType(
    {
        "positives": "positive prompts",
        "negatives": "negative prompts",
        "zero_shot": "zero-shot prompts",
        "words": "negative words",
        "words_by_images": "negative words chosen by ID images",
        "words_filtered": "negative words filtered by WordNet",
        "csp_words": "nouns and phrases",
        "pair_features": "features of texts with a class and a word",
        "train_features": "features of ID training images",
        "train_labels": "labels of ID training images",
        "local_features": "local (patch) features",
    }
)


def score_names() -> tuple[str, ...]:
    """Return the names of all scores."""
    return tuple(SCORES)


def find_score(name: str, among: Mapping[str, Score] = SCORES) -> Score:
    """Return the record of a score.

    Raises:
        UsageError: there is no such score; the message suggests the nearest name.
    """
    if name not in among:
        raise UsageError(f"Unknown score {name!r}.{did_you_mean(name, among)}")
    return among[name]


def check_scores(names: Iterable[str], bank: "ScoreInputs", *, has_local_features: bool = False) -> None:
    """Check that scores can be computed.

    Args:
        names: the requested scores.
        bank: the features that are available.
        has_local_features: whether patch features are available too.

    Raises:
        UsageError: a score is unknown or needs features that are missing; the message lists the scores that would work.
    """
    for score in map(find_score, names):
        missing = _missing(score, bank, has_local_features)
        if missing:
            possible = [s.name for s in SCORES.values() if not _missing(s, bank, has_local_features)]
            raise UsageError(
                f"Score {score.name!r} needs {' and '.join(_MEANING[m] for m in missing)}, which are missing here. "
                f"Scores that can be computed here: {', '.join(possible)}."
            )


def constant_scores(names: Iterable[str], classes: int) -> list[str]:
    """Return those of the scores that are the same for every image with this number of classes."""
    return [name for name in names if find_score(name).least_classes > classes]


def _missing(score: Score, bank: "ScoreInputs", has_local_features: bool) -> list[str]:
    """Return the requirements of the score that are not met."""
    return [
        need
        for need in score.requires
        if (not has_local_features if need == "local_features" else getattr(bank, need) is None)
    ]
