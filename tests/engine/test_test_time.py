"""Test-time scores against slow loops that keep everything they have seen in lists."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from negprompt_cli.engine.scores import SCORES, find_score
from negprompt_cli.engine.test_time import TEST_TIME_SCORES
from negprompt_cli.engine.test_time.adaneg import adaneg
from negprompt_cli.engine.test_time.stream import Stream
from negprompt_cli.engine.test_time.tanl import tanl
from negprompt_cli.errors import UsageError

SCALE = 20.0


def unit(*shape: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


NAMES, WORDS = unit(3, 6, seed=1), unit(7, 6, seed=2)


@pytest.fixture
def stream() -> Stream:
    """Images near names, near words, and near nothing, mixed."""
    near = torch.cat([NAMES.repeat(14, 1), WORDS.repeat(6, 1), unit(16, 6, seed=3)])
    images = normalize(near + 0.35 * unit(100, 6, seed=4), dim=1)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(5))
    return Stream(images[order], NAMES, WORDS, SCALE)


def dot(a, b) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def share(names: list[float], words: list[float]) -> float:
    mass = math.fsum(math.exp(SCALE * c) for c in names)
    return mass / (mass + math.fsum(math.exp(SCALE * c) for c in words))


def entropy(cosines: list[float]) -> float:
    total = math.fsum(math.exp(SCALE * c) for c in cosines)
    p = [math.exp(SCALE * c) / total for c in cosines]
    return -math.fsum(x * math.log(x) for x in p)


def slow_adaneg(stream: Stream, memory: int) -> list[float]:
    texts = [t.tolist() for t in stream.texts]
    kept: dict[int, list] = {c: [] for c in range(len(texts))}
    scores = []
    for f in stream.features.tolist():
        cosines = [dot(t, f) for t in texts]
        names, words = cosines[:3], cosines[3:]
        base = share(names, words)
        if base > 0.75 or base < 0.25:
            some = names if base > 0.75 else words
            owner = some.index(max(some)) + (0 if base > 0.75 else 3)
            kept[owner].append((entropy(some), f))
            if len(kept[owner]) > memory:
                # The last of the highest entropies leaves, and so the new one where it is no surer.
                worst = max(range(memory + 1), key=lambda i: (kept[owner][i][0], i))
                kept[owner].pop(worst)
        proxies = []
        for c, t in enumerate(texts):
            total = [0.0] * len(f)
            for m in [t, *(image for _, image in kept[c])]:
                weight = math.exp(-5.5 * (1 - dot(m, f)))
                total = [a + weight * b for a, b in zip(total, m, strict=True)]
            length = math.sqrt(dot(total, total))
            proxies.append(dot(total, f) / length)
        scores.append(base + 0.1 * share(proxies[:3], proxies[3:]))
    return scores


@pytest.mark.parametrize("memory", [2, 10])
def test_adaneg_keeps_sure_images_for_their_names_and_words(stream, memory):
    found = adaneg(stream, most=memory)
    np.testing.assert_allclose(found, slow_adaneg(stream, memory), rtol=1e-10)
    single = Stream(stream.features.float(), NAMES.float(), WORDS.float(), SCALE)
    np.testing.assert_allclose(adaneg(single, most=memory), found, atol=1e-4)


def otsu(values: list[float]) -> float:
    """The middle one of the thresholds in hundredths with the least sum of squares within the two parts."""
    best, lowest = [], math.inf
    for step in range(1, 100):
        parts = [[v for v in values if int(v * 100) < step], [v for v in values if int(v * 100) >= step]]
        if not all(parts):
            continue
        within = sum(float(np.var(part)) * len(part) for part in parts)
        if within < lowest - 1e-12:
            best, lowest = [step], within
        elif within <= lowest + 1e-12:
            best.append(step)
    return best[len(best) // 2] / 100 if best else 0.5


def slow_tanl(stream: Stream, most: int, queue: int) -> list[float]:
    texts = [t.tolist() for t in stream.texts]

    def activations(f) -> list[float]:
        values = [math.exp(SCALE * dot(t, f)) for t in texts]
        return [v / math.fsum(values) for v in values[3:]]

    known, foreign = [activations(n) for n in NAMES.tolist()], [[0.1] * 7]
    scores: list[float] = []
    for f in stream.features.tolist():
        gain = [np.mean([r[w] for r in foreign[-queue:]]) - np.mean([r[w] for r in known[-queue:]]) for w in range(7)]
        ranked = sorted(range(7), key=lambda w: -gain[w])[:most]
        cosines = [dot(t, f) for t in texts]
        shares = [share(cosines[:3], [cosines[3 + w] for w in ranked[:m]]) for m in range(1, len(ranked) + 1)]
        scores.append(float(np.mean(shares)))
        limit = otsu(scores)
        if scores[-1] > limit + 0.5 * (1 - limit):
            known.append(activations(f))
        elif scores[-1] < limit - 0.5 * limit:
            foreign.append(activations(f))
    return scores


@pytest.mark.parametrize(("most", "queue"), [(3, 8), (1000, 300)])
def test_tanl_ranks_words_by_what_suspected_images_activate(stream, most, queue):
    np.testing.assert_allclose(tanl(stream, most=most, queue=queue), slow_tanl(stream, most, queue), rtol=1e-9)


@pytest.mark.parametrize("name", TEST_TIME_SCORES)
def test_a_score_depends_on_the_images_before_it_and_on_none_after_it(stream, name):
    score = TEST_TIME_SCORES[name].load()
    whole = score(stream)
    first = Stream(stream.features[:40], NAMES, WORDS, SCALE)
    torch.testing.assert_close(score(first), whole[:40])
    backwards = Stream(stream.features.flip(0), NAMES, WORDS, SCALE)
    assert float((score(backwards).flip(0) - whole).abs().max()) > 1e-3
    assert len(score(Stream(stream.features[:0], NAMES, WORDS, SCALE))) == 0


def test_records_are_apart_from_the_other_scores():
    assert not set(TEST_TIME_SCORES) & set(SCORES)
    for name, record in TEST_TIME_SCORES.items():
        assert record.name == name and all((record.title, record.formula, record.paper))
        assert record.url.startswith("https://")
    with pytest.raises(UsageError, match="Did you mean 'adaneg'"):
        find_score("adange", TEST_TIME_SCORES)
