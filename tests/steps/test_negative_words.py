"""Negative words of an evaluation: where they come from, the four choices, and the file of chosen words."""

import csv
import sys
import types

import numpy as np
import pytest
import torch
from evaluation_world import World, make_world
from recorder import Recorder
from sklearn.metrics import roc_auc_score

from negprompt_cli.data.results.evaluation_means import average_over_seeds
from negprompt_cli.data.results.evaluations import load_evaluation, save_evaluation
from negprompt_cli.data.sets import wordnet
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.engine.scores.csp import SUPERCLASSES
from negprompt_cli.engine.scores.word_choice import farthest, image_distances, name_distances
from negprompt_cli.engine.test_time import TEST_TIME_SCORES
from negprompt_cli.engine.test_time.stream import Stream
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.evaluate import evaluation_document
from negprompt_cli.steps.shared.measure import measure
from negprompt_cli.steps.shared.templates import encode_zero_shot
from negprompt_cli.steps.shared.words_file import check_words_file, save_words

TEMPLATE = "a photo of a {}."


class Synset:
    """A synset of the small WordNet below."""

    def __init__(self, *lemmas: str, above: "Synset | None" = None, instance: bool = False, kind: str = "n") -> None:
        self.lemmas, self.kind, self.below, self.instances = lemmas, kind, [], []
        self.above_instance = [above] if above and instance else []
        if above:
            (above.instances if instance else above.below).append(self)

    def lemma_names(self) -> list[str]:
        return list(self.lemmas)

    def hyponyms(self) -> list["Synset"]:
        return self.below

    def instance_hyponyms(self) -> list["Synset"]:
        return self.instances

    def instance_hypernyms(self) -> list["Synset"]:
        return self.above_instance


ANIMAL = Synset("animal", "beast")
CAT = Synset("cat", "true_cat", above=ANIMAL)
TABBY = Synset("tabby", "queen", above=CAT)
FELIX = Synset("Felix", above=TABBY, instance=True)
RULER = Synset("queen")
CITY = Synset("city")
TOKYO = Synset("Tokyo", above=CITY, instance=True)
PHOENIX = Synset("Phoenix", above=CITY, instance=True)
BIRD = Synset("Phoenix", above=ANIMAL)
SPOTTED = Synset("spotted", "polka-dotted", kind="a")
SYNSETS = (ANIMAL, CAT, TABBY, FELIX, RULER, CITY, TOKYO, PHOENIX, BIRD, SPOTTED)


@pytest.fixture
def small_wordnet(monkeypatch) -> None:
    offsets = {("n", 2121620): CAT}
    fake = types.SimpleNamespace(
        all_synsets=lambda kind: [s for s in SYNSETS if s.kind == kind],
        synsets=lambda name, kind: [s for s in SYNSETS if s.kind == kind and name in s.lemmas],
        synset_from_pos_and_offset=lambda kind, offset: offsets.get((kind, offset)),
    )
    monkeypatch.setitem(sys.modules, "nltk.corpus", types.SimpleNamespace(wordnet=fake))


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip) -> World:
    return make_world(tmp_path_factory.mktemp("world"), tiny_clip)


def test_wordnet_s_words_are_sorted_and_have_spaces(small_wordnet):
    expected = ["Felix", "Phoenix", "Tokyo", "animal", "beast", "cat", "city", "queen", "tabby", "true cat"]
    assert wordnet.nouns() == expected
    assert wordnet.adjectives() == ["polka-dotted", "spotted"]


@pytest.mark.parametrize("wnid", ["n02121620", None, "n00000001"])
def test_things_and_subclasses_of_classes_are_told(small_wordnet, wnid):
    things, subclasses = wordnet.things_and_subclasses([*wordnet.nouns(), "gadget"], [ClassLabel("x", "cat", wnid)])
    # A name that is a kind as well, such as the bird, is no name of a single thing; Felix is below cat.
    assert things == {"Felix", "Tokyo"}
    assert subclasses == {"cat", "true cat", "tabby", "queen", "Felix"}


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(UsageError, match="needs nltk"):
        wordnet.nouns()

    def missing(kind):
        raise LookupError("no corpus")

    gone = types.SimpleNamespace(wordnet=types.SimpleNamespace(all_synsets=missing))
    monkeypatch.setitem(sys.modules, "nltk.corpus", gone)
    with pytest.raises(UsageError, match=r"nltk\.downloader wordnet"):
        wordnet.adjectives()


def test_the_four_choices_equal_slow_ones_and_are_written(small_wordnet, world, tmp_path):
    words = tmp_path / "words.txt"
    more = ["anchor", "bridge", "candle", "engine", "fern", "glove", "igloo", "jacket", "kettle", "ladder"]
    words.write_text("# words\nCat\nocean\n\nred  Fox\nhammer\nTokyo\ntabby\nsteel drum\n" + "\n".join(more))
    (tmp_path / "adjectives.txt").write_text("dotted\nstriped\nwet\n")
    scores = ("neglabel", "neglabel-images", "neglabel-filtered", "neglabel-pairs", "csp", "mcm")
    settings = {"words": str(words), "adjectives": str(tmp_path / "adjectives.txt"), "word_count": 4}
    settings["phrase_template"] = "csp-phrases"
    measured = measure(world.bench(scores=scores, **settings), world.artifact)
    chosen = {one.choice: one for one in measured.words}

    def encode(texts):
        return encode_zero_shot(world.clip, texts, TEMPLATE, budget=1 << 28)

    # ID class names are no negative words.
    pool = ["ocean", "hammer", "Tokyo", "tabby", "steel drum", *more]
    classes = encode(["cat", "dog", "red fox"])
    distances = name_distances(encode(pool), classes).tolist()
    expected = sorted(pool, key=lambda w: -distances[pool.index(w)])[:4]
    assert list(chosen["words"].words) == expected
    assert chosen["words"].distances == pytest.approx([distances[pool.index(w)] for w in expected], abs=1e-6)
    torch.testing.assert_close(measured.bank.words, encode(expected), atol=1e-6, rtol=1e-5)

    rest = sorted(set(pool) - {"Tokyo", "tabby"}, key=lambda w: -distances[pool.index(w)])
    assert list(chosen["words_filtered"].words) == rest[:4]

    # The texts of classes and words, and the best of them on top of the filtered words.
    names, filtered = ("cat", "dog", "red fox"), rest[:4]
    both = encode([f"{name} and {word}" for name in names for word in filtered]).view(3, 4, -1)
    places = torch.tensor([[2, 3], [0, 1], [2, 3]])
    torch.testing.assert_close(
        measured.bank.pair_features(places), both[places[:, 0], places[:, 1]], atol=1e-6, rtol=1e-5
    )
    features = measured.id_set.encoded.features
    margin = world.clip.logit_scale * (features @ both.flatten(0, 1).T - (features @ encode(filtered).T).repeat(1, 3))
    scored = measured.id_set.table.scores
    found = scored["neglabel-pairs"] - scored["neglabel-filtered"]
    assert found == pytest.approx((2 * margin.sigmoid().amax(1)).numpy(), rel=1e-4)

    bench = world.bench(scores=("knn",))
    bank = measure(bench, world.artifact).bank
    by_images = image_distances(encode(pool), classes, bank.train_features, bank.train_labels)
    assert list(chosen["words_by_images"].words) == [pool[i] for i in farthest(by_images, 4).tolist()]

    # Fifteen nouns and three phrases: three of the four chosen are nouns.
    *three, phrase = chosen["csp_words"].words
    assert three == expected[:3]
    assert phrase.split()[0] in ("dotted", "striped", "wet") and phrase.split()[1] in SUPERCLASSES
    # Phrases have a template of their own.
    own = encode_zero_shot(world.clip, [phrase], "csp-phrases", budget=1 << 28)
    torch.testing.assert_close(measured.bank.csp_words[3:], own, atol=1e-6, rtol=1e-5)

    check_words_file(tmp_path / "out.csv", scores, overwrite=False)
    save_words(tmp_path / "out.csv", [measured])
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text("utf-8").splitlines()))
    assert [row["word"] for row in rows if row["score"] == "neglabel"] == expected
    assert {row["score"] for row in rows} == set(scores) - {"mcm", "neglabel-pairs"}
    assert {row["seed"] for row in rows} == {"0"}
    assert float(rows[0]["distance"]) == pytest.approx(chosen["words"].distances[0])
    with pytest.raises(UsageError, match="exists"):
        check_words_file(tmp_path / "out.csv", scores, overwrite=False)
    with pytest.raises(UsageError, match="chooses negative words"):
        check_words_file(tmp_path / "other.csv", ["mcm"], overwrite=False)


def test_groups_are_drawn_from_the_same_words(world, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(f"thing {i}" for i in range(12)))
    plain, grouped = (
        measure(world.bench(scores=("neglabel",), words=str(tmp_path / "words.txt"), word_groups=g), world.artifact)
        for g in (1, 3)
    )
    assert set(plain.words[0].words) == set(grouped.words[0].words)
    assert plain.words[0].words != grouped.words[0].words
    by_word = dict(zip(plain.words[0].words, plain.words[0].distances, strict=True))
    assert grouped.words[0].distances == pytest.approx([by_word[w] for w in grouped.words[0].words])


def test_words_that_cannot_be_used_are_refused(world, tmp_path):
    (tmp_path / "own.txt").write_text("cat\ndog\n")
    with pytest.raises(UsageError, match="names of ID classes"):
        measure(world.bench(scores=("neglabel",), words=str(tmp_path / "own.txt")), world.artifact)
    with pytest.raises(UsageError, match=r"none\.txt"):
        measure(world.bench(scores=("neglabel",), words=str(tmp_path / "none.txt")), world.artifact)


def test_test_time_scores_are_reported_apart_with_their_dependence_on_the_order(world, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(f"thing {i}" for i in range(12)))
    settings = {"words": str(tmp_path / "words.txt"), "test_time": ("adaneg", "tanl"), "stream_orders": (0, 5)}
    progress = Recorder()
    bench = world.bench(progress, scores=("mcm",), **settings)
    measured = measure(bench, world.artifact, keep_features=False)
    assert [(one.score, one.order) for one in measured.test_time] == [
        ("adaneg", 0),
        ("tanl", 0),
        ("adaneg", 5),
        ("tanl", 5),
    ]
    assert any("learn from the test images" in text for text in progress.warned)
    assert len(measured.id_set.encoded.features) == 0
    document = evaluation_document(bench, measured, world.prompts)
    assert {row.score for row in document.rows} == {"mcm"}
    assert [(row.score, row.ood) for row in document.test_time] == [
        (score, ood) for score in ("adaneg", "tanl") for ood in ("noise", "average")
    ]
    row = document.test_time[0]
    aurocs = [
        roc_auc_score(np.repeat([1, 0], [len(o.id_scores), len(o.ood_scores)]), np.r_[o.id_scores, o.ood_scores])
        for o in measured.test_time
        if o.score == "adaneg"
    ]
    assert row.auroc == pytest.approx(np.mean(aurocs))
    assert row.order_std["auroc"] == pytest.approx(np.std(aurocs, ddof=1))
    assert row.document()["sees_test_stream"] is True and row.orders == (0, 5)
    path = tmp_path / "evaluation.json"
    save_evaluation(path, document)
    assert load_evaluation(path).test_time == document.test_time
    mean = average_over_seeds([document, document])
    assert mean.test_time[0].auroc == pytest.approx(row.auroc)
    assert mean.test_time[0].order_std == pytest.approx(row.order_std)
    assert "adaneg" in [line[0][0].text for line in document.test_time_table()[2]]
    # An image's scores are in the order of the images, whatever the order of the stream.
    stream = Stream(
        torch.cat([bench.encode(s.encoded.images).features for s in (measured.id_set, *measured.ood_sets)])[
            order := torch.randperm(22, generator=torch.Generator().manual_seed(5))
        ],
        measured.bank.zero_shot,
        measured.bank.words,
        measured.bank.logit_scale,
    )
    expected = torch.empty(22, dtype=torch.float64)
    expected[order] = TEST_TIME_SCORES["adaneg"].load()(stream)
    np.testing.assert_allclose(measured.test_time[2].id_scores, expected[:15], rtol=1e-6)
    assert measure(world.bench(scores=("mcm",)), world.artifact).test_time == ()
    with pytest.raises(UsageError, match="not among the other scores"):
        measure(world.bench(scores=("mcm", "tanl")), world.artifact)
