"""Prompts as token ids: the same ids as whole sentences, names refused that do not fit."""

import open_clip
import pytest
import torch
from conftest import build_tiny_clip
from ftfy import fix_text
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts, word_ids
from negprompt_cli.engine.prompt_learners.towers import TowerPlan, plan_text_path
from negprompt_cli.errors import UsageError

TOKENIZER = SimpleTokenizer()
PLAN = plan_text_path(build_tiny_clip())
SOS, EOT = 49406, 49407


def whole_sentence(words: str) -> list[int]:
    """The tokenizer's own ids of a sentence, start and end included."""
    ids: list[int] = TOKENIZER([words], context_length=1000)[0].tolist()
    return ids[: ids.index(EOT) + 1]


def spliced_ids(name: str, words: str, template: str) -> list[int]:
    """Ids of a prompt put together as the encoder does it: start, the ids of the context's words, the rest."""
    context = word_ids(words, TOKENIZER, PLAN)
    tokens = tokenize_prompts([name], TOKENIZER, PLAN, context=len(context), template=template)
    return [*tokens.start, *context, *tokens.rest[0]]


def test_ids_equal_those_of_whole_sentences_for_every_imagenet_name() -> None:
    names = open_clip.IMAGENET_CLASSNAMES
    tokens = tokenize_prompts(names, TOKENIZER, PLAN, context=4)
    context = word_ids("a photo of a", TOKENIZER, PLAN)
    assert len(tokens) == 1000
    assert tokens.start == (SOS,)
    for name, rest, length in zip(names, tokens.rest, tokens.lengths(), strict=True):
        assert [*tokens.start, *context, *rest] == whole_sentence(f"a photo of a {name}.")
        assert rest[-1] == EOT
        assert length == len(rest)


@settings(max_examples=200)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=25).filter(str.strip))
def test_ids_equal_those_of_whole_sentences_for_any_name(name: str) -> None:
    # The tokenizer has ftfy mend wrongly decoded text, which it recognises by what stands around it too.
    assume(fix_text(f"a photo of a {name}.") == f"a photo of a {fix_text(f'{name}.')}")
    try:
        ours = spliced_ids(name, "a photo of a", "{}.")
    except UsageError as error:
        assert len(whole_sentence(f"a photo of a {name}.")) > 77
        assert name in str(error)
        return
    assert ours == whole_sentence(f"a photo of a {name.replace('_', ' ')}.")


@pytest.mark.parametrize("template", ["{}.", "{}", "{}, a type of bird.", "{} in the wild"])
def test_templates_stand_behind_the_name(template: str) -> None:
    sentence = f"a sketch of the {template.format('great white shark')}"
    assert spliced_ids("great white shark", "a sketch of the", template) == whole_sentence(sentence)


def test_underscores_are_spaces() -> None:
    tokens = tokenize_prompts(["great_white_shark", "great white shark"], TOKENIZER, PLAN, context=0)
    assert tokens.rest[0] == tokens.rest[1]


def test_a_prompt_of_exactly_the_context_length_fits_and_one_more_does_not() -> None:
    # [SOS] + 16 vectors + name + "." + [EOS] = 77 leaves 58 tokens for the name.
    fits = tokenize_prompts([" ".join(["cat"] * 58)], TOKENIZER, PLAN, context=16)
    assert 1 + 16 + fits.lengths()[0] == 77
    with pytest.raises(UsageError, match=r"77 tokens, 16 context vectors included.*'cat.*\(78\)"):
        tokenize_prompts(["dog", " ".join(["cat"] * 59)], TOKENIZER, PLAN, context=16)


def test_every_class_that_is_too_long_is_counted() -> None:
    long = [f"{word} " * 80 for word in ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")]
    with pytest.raises(UsageError, match=r"'ant .*'elk .* and 2 more\. Shorten the class names") as caught:
        tokenize_prompts([*long, "cow"], TOKENIZER, PLAN, context=4)
    assert "cow" not in str(caught.value)


def test_absurdly_long_names_are_refused_too() -> None:
    with pytest.raises(UsageError, match="Prompts longer than the text tower's 77 tokens"):
        tokenize_prompts(["cat " * 5000], TOKENIZER, PLAN, context=4)


def test_an_end_token_that_the_tokenizer_does_not_write_is_refused() -> None:
    plan = TowerPlan("prefix", "", 77, "eos", 2, PLAN.embedding, 2)
    with pytest.raises(UsageError, match=r"end token 2.*eos_id"):
        tokenize_prompts(["cat"], TOKENIZER, plan, context=4)


def test_last_pooling_keeps_the_padding_that_is_read_out() -> None:
    plan = plan_text_path(build_tiny_clip(pool_type="last"))
    tokens = tokenize_prompts(["cat", "great white shark"], TOKENIZER, plan, context=16)
    assert tokens.lengths() == [60, 60]
    assert tokens.rest[0] == (*whole_sentence("cat.")[1:], *[0] * 57)


class Bert:
    """A tokenizer with another start, end and padding than CLIP's, and no start-of-sentence for `bare`."""

    def __init__(self, *, bare: bool = False) -> None:
        self.start = [] if bare else [101]

    def __call__(self, texts: list[str], context_length: int) -> Tensor:
        rows = [[*self.start, *(1000 + ord(c) for c in t.replace(" ", "")), 102] for t in texts]
        return torch.tensor([row + [3] * (context_length - len(row)) for row in rows])


@pytest.mark.parametrize("bare", [False, True])
def test_other_tokenizers_start_end_and_padding_are_found(bare: bool) -> None:
    plan = TowerPlan("truncated", "", 40, "own", None, PLAN.embedding, 2, ignored_id=3)
    tokens = tokenize_prompts(["ox", "cat"], Bert(bare=bare), plan, context=2)
    assert tokens.start == (() if bare else (101,))
    assert tokens.rest == ((1111, 1120, 1046, 102), (1099, 1097, 1116, 1046, 102))
    assert tokens.pad == 3
    assert tokens.filler not in (3, 101, 102)
    assert word_ids("a photo", Bert(bare=bare), plan) == [1000 + ord(c) for c in "aphoto"]


def test_a_context_of_words_has_their_embeddings(tiny_clip: Clip) -> None:
    vectors = tiny_clip.word_context("a photo of a")
    ids = torch.tensor(whole_sentence("a photo of a")[1:-1])
    torch.testing.assert_close(vectors, tiny_clip.model.token_embedding.weight[ids], rtol=0, atol=0)
    assert not vectors.requires_grad
    with pytest.raises(UsageError, match="at least one word"):
        tiny_clip.word_context("  ")
