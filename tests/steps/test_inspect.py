"""Inspection of artifacts: their contents, and the nearest words against a loop over the vocabulary."""

from dataclasses import replace

import pytest
import torch
from evaluation_world import World, make_world
from scoring_world import calibrated, run

from negprompt_cli.data.results.artifacts import load_prompts, save_prompts
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.inspect import Vocabulary, inspect_artifact, read_vocabulary


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip) -> World:
    return make_world(tmp_path_factory.mktemp("world"), tiny_clip)


def test_nearest_words_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(20, 5, generator=generator)
    vocabulary = Vocabulary(tuple(f"w{i}" for i in range(20)), vectors)
    asked = torch.randn(3, 5, generator=generator)
    for vector, found in zip(asked, vocabulary.nearest(asked, 4), strict=True):
        distances = {f"w{i}": float((vector - word).square().sum().sqrt()) for i, word in enumerate(vectors)}
        expected = sorted(distances, key=distances.__getitem__)[:4]
        assert [word for word, _ in found] == expected
        assert [d for _, d in found] == pytest.approx([distances[w] for w in expected], rel=1e-4)
    own = [min(float((a - b).norm()) for j, b in enumerate(vectors) if i != j) for i, a in enumerate(vectors)]
    assert vocabulary.spacing() == pytest.approx(torch.tensor(own).median().item(), rel=1e-4)


def test_a_context_of_words_is_nearest_to_these_words(world, tmp_path, tiny_clip):
    prompts = load_prompts(world.prompts)
    words = ["photo", "sunset"]
    context = tiny_clip.word_context(" ".join(words))
    path = tmp_path / "words.safetensors"
    save_prompts(replace(prompts, kind="positive", positive=context[None], negative=None), path)
    _, document = inspect_artifact(path, load=lambda _: tiny_clip, count=2)
    (only,) = document["contexts"]
    assert [v["words"][0]["word"] for v in only["vectors"]] == words
    assert all(v["words"][0]["distance"] < 1e-4 for v in only["vectors"])
    assert all(v["words"][1]["distance"] > 0.1 for v in only["vectors"])


def test_the_document_says_what_the_artifact_holds(world):
    prompts, document = inspect_artifact(world.prompts, load=None)
    assert document["kind"] == "negative"
    assert [c["name"] for c in document["classes"]] == ["cat", "dog", "red fox"]
    assert document["tensors"] == {"positive": [1, 4, 32], "negative": [2, 4, 32]}
    assert [c["context"] for c in document["contexts"]] == ["positive", "negative 1", "negative 2"]
    assert document["parents"][0]["kind"] == "positive"
    vector = document["contexts"][1]["vectors"][0]
    assert vector["from_positive"] == pytest.approx(float((prompts.negative[0, 0] - prompts.positive[0, 0]).norm()))
    assert vector["words"] == []


def test_contexts_of_single_classes_are_named(world, tmp_path):
    prompts = load_prompts(world.prompts)
    positive = prompts.positive[:, None].expand(1, 3, *prompts.positive.shape[1:])
    negative = prompts.negative[:, None].expand(2, 3, *prompts.negative.shape[1:])
    path = tmp_path / "own.safetensors"
    save_prompts(replace(prompts, positive=positive, negative=negative), path)
    _, document = inspect_artifact(path, load=None)
    names = [c["context"] for c in document["contexts"]]
    assert len(names) == 9
    assert names[0] == "positive, cat"
    assert names[-1] == "negative 2, red fox"


def test_only_whole_words_are_offered(tiny_clip):
    words = read_vocabulary(tiny_clip).words
    assert "photo" in words
    assert not any(w.endswith("</w>") or "startoftext" in w for w in words)
    assert len(set(words)) == len(words)


def test_a_vocabulary_that_cannot_be_listed_says_what_to_do(tiny_clip):
    towers = replace(tiny_clip.towers(), tokenizer=lambda texts, context_length=77: None)
    with pytest.raises(UsageError, match="cannot be listed"):
        read_vocabulary(replace(tiny_clip, towers=lambda: towers))


def test_a_missing_artifact_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="No prompt artifact"):
        inspect_artifact(tmp_path / "none.safetensors", load=None)


def test_the_threshold_is_shown(world, tmp_path):
    path = tmp_path / "calibrated.safetensors"
    save_prompts(calibrated(load_prompts(world.prompts), 0.25), path)
    _, document = inspect_artifact(path, load=None)
    assert document["calibration"]["threshold"] == 0.25
    shown = run("inspect", path, "--no-words")
    text = " ".join(shown.stdout.split())
    assert "ID if negprompt is at least 0.25" in text and "100 held-out images of nothing" in text
    assert max(len(line) for line in shown.stdout.splitlines() if str(tmp_path) not in line) <= 80
    assert "none: `negprompt calibrate`" in run("inspect", world.prompts, "--no-words").stdout


def test_how_firmly_negatives_belong_to_their_classes(world, tiny_clip):
    prompts, document = inspect_artifact(world.prompts, load=lambda _: tiny_clip)
    encoder = tiny_clip.prompt_encoder(prompts.names, context=4, budget=2**28)
    with torch.no_grad():
        positives, negatives = encoder(prompts.positive)[0], encoder(prompts.negative)
    right, cosines = 0, []
    for n in negatives:
        for i in range(3):
            near = [float(torch.cosine_similarity(n[i] - n.mean(0), p - positives.mean(0), dim=0)) for p in positives]
            right += near.index(max(near)) == i
            cosines += [float(n[i] @ m[k]) for m in negatives for k in range(3) if k != i]
    assert document["class_bond"]["own_class_share"] == pytest.approx(right / 6)
    assert document["class_bond"]["cosine_between_classes"] == pytest.approx(sum(cosines) / len(cosines), rel=1e-5)
    assert inspect_artifact(world.prompts, load=None)[1]["class_bond"] is None
