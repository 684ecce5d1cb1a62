"""Prompt encoding against open_clip's own `encode_text`: every kind of tower, chunking, recomputation, memory limits."""

import math
from collections.abc import Sequence
from typing import Any

import open_clip
import pytest
import torch
from conftest import build_tiny_clip, randomise
from memory_world import room_for
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.prompt_learners.prompt_encoder import PromptEncoder
from negprompt_cli.engine.prompt_learners.spliced import encode_spliced
from negprompt_cli.engine.prompt_learners.tokens import PromptTokens, tokenize_prompts
from negprompt_cli.engine.prompt_learners.towers import TowerPlan, plan_text_path

CPU = torch.device("cpu")
EOT = 49407
# Lengths from one token to many, one name twice, one with punctuation.
NAMES = ("tench", "great white shark", "missile", "missile", "Cardigan Welsh Corgi", "black-and-gold garden spider")
VISION = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
TEXT = {"width": 32, "heads": 2, "layers": 3}


def flat(quick_gelu: bool = False, **text: Any) -> nn.Module:
    return randomise(CLIP(embed_dim=16, vision_cfg=VISION, text_cfg={**TEXT, **text}, quick_gelu=quick_gelu))


def custom(quick_gelu: bool = False, **text: Any) -> nn.Module:
    return randomise(CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg={**TEXT, **text}, quick_gelu=quick_gelu))


def with_tower(**options: Any) -> nn.Module:
    """A CustomTextCLIP whose text tower takes options that open_clip's configuration does not reach."""
    model = CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)
    model.text = TextTransformer(width=32, heads=2, layers=3, output_dim=16, **options)
    return randomise(model)


CAUSAL = {
    "CLIP": lambda: flat(),
    "CustomTextCLIP": lambda: custom(),
    "QuickGELU": lambda: flat(quick_gelu=True),
    "layer scale": lambda: flat(ls_init_value=0.1),
    "qk_norm": lambda: custom(qk_norm=True),
    "scale_heads": lambda: custom(scale_heads=True),
    "scale_attn": lambda: custom(scale_attn=True),
    "scale_attn_inner": lambda: custom(scale_attn_inner=True),
    "scale_fc": lambda: custom(scale_fc=True),
    "all block options": lambda: flat(
        qk_norm=True, scale_heads=True, scale_attn=True, scale_attn_inner=True, scale_fc=True, ls_init_value=0.1
    ),
    "wide, four heads, one layer": lambda: custom(width=48, heads=4, layers=1, mlp_ratio=2.0),
    "short context": lambda: flat(context_length=32),
    "pool eos": lambda: custom(pool_type="eos", eos_id=EOT),
    "pool last": lambda: custom(pool_type="last", context_length=32),
    "pool last, flat": lambda: flat(pool_type="last", context_length=32),
    "projection with bias": lambda: custom(proj_bias=True),
    "projection with bias, flat": lambda: flat(proj_bias=True),
    "no projection": lambda: custom(proj_type="none"),
}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def tokens_of(model: nn.Module, tokenizer: SimpleTokenizer, context: int) -> tuple[TowerPlan, PromptTokens]:
    plan = plan_text_path(model)
    return plan, tokenize_prompts(NAMES, tokenizer, plan, context=context)


def contexts_for(plan: TowerPlan, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(*shape, plan.width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return drawn.to(dtype).requires_grad_()


def features_and_gradient(features: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor]:
    """The features, and the contexts' gradient of a fixed random weighting of them."""
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((features * weights.to(features)).sum(), contexts, retain_graph=True)
    return features.detach(), gradient


def compare(model: nn.Module, tokenizer: SimpleTokenizer, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Hold the encoder to the model's own full-length forward, for contexts of `shape` without their width."""
    model = model.to(dtype)
    plan, tokens = tokens_of(model, tokenizer, shape[-1])
    full = TowerPlan("full", "reference", plan.context_length, plan.pool, plan.eos_id, plan.embedding, plan.layers)
    contexts = contexts_for(plan, *shape, dtype=dtype)
    encoder = PromptEncoder(model, plan, tokens, device=CPU)
    ours, our_gradient = features_and_gradient(encoder(contexts), contexts)
    reference = normalize(encode_spliced(model, full, tokens, contexts, range(len(NAMES))), dim=-1)
    theirs, their_gradient = features_and_gradient(reference, contexts)
    double = dtype == torch.float64
    assert ours.shape == (shape[0], len(NAMES), theirs.shape[-1])
    assert (ours - theirs).abs().max() <= (1e-9 if double else 1e-5)
    if contexts.numel():
        assert their_gradient.abs().max() > 1e-3
        assert relative(our_gradient, their_gradient) <= (1e-9 if double else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_towers_share_the_prefix_and_stay_exact(
    kind: str, dtype: torch.dtype, tokenizer: SimpleTokenizer
) -> None:
    model = CAUSAL[kind]()
    plan = plan_text_path(model)
    assert plan.path == "prefix", plan.reason
    compare(model, tokenizer, (2, 4), dtype)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 0), (1, len(NAMES), 3), (2, len(NAMES), 3)])
@pytest.mark.parametrize("kind", ["CLIP", "all block options", "pool last"])
def test_any_shape_of_contexts_is_exact(kind: str, shape: tuple[int, ...], tokenizer: SimpleTokenizer) -> None:
    compare(CAUSAL[kind](), tokenizer, shape, torch.float64)


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP", "pool eos", "pool last", "no projection"])
def test_plain_words_equal_encode_text(kind: str, tokenizer: SimpleTokenizer) -> None:
    model = CAUSAL[kind]().double()
    plan = plan_text_path(model)
    names = open_clip.IMAGENET_CLASSNAMES[::17]
    words = tokenizer(["a photo of a"])[0].tolist()
    context = plan.embedding(torch.tensor(words[1 : words.index(EOT)]))
    tokens = tokenize_prompts(names, tokenizer, plan, context=4)
    with torch.no_grad():
        ours = PromptEncoder(model, plan, tokens, device=CPU)(context[None])[0]
        sentences = [f"a photo of a {name}." for name in names]
        theirs = model.encode_text(tokenizer(sentences, context_length=plan.context_length), normalize=True)
    assert (ours - theirs).abs().max() <= 1e-9


@pytest.mark.parametrize(
    ("template", "own"), [("a photo of a {}.", True), ("{}", True), ("{}, a kind of thing", True), ("no name", False)]
)
def test_encode_template_equals_encode_text(
    template: str, own: bool, tiny_clip: Clip, tokenizer: SimpleTokenizer
) -> None:
    if not own:
        with pytest.raises(Exception, match=r"has no \{\} for the class name"):
            tiny_clip.encode_template(NAMES, template=template, budget=2**30)
        return
    ours = tiny_clip.encode_template(NAMES, template=template, budget=2**30)
    with torch.no_grad():
        theirs = tiny_clip.model.encode_text(tokenizer([template.format(n) for n in NAMES]), normalize=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool", ["first", "argmax", "eos"])
def test_bidirectional_tower_that_ignores_padding_is_truncated(pool: str, tokenizer: SimpleTokenizer) -> None:
    model = with_tower(no_causal_mask=True, use_pad_mask=True, pool_type=pool, eos_id=EOT, context_length=32)
    plan = plan_text_path(model)
    assert (plan.path, plan.reason) == ("truncated", "attention is bidirectional but ignores padding")
    seen = []
    model.text.token_embedding.register_forward_hook(lambda _m, args, _out: seen.append(args[0].shape[1]))
    compare(model, tokenizer, (2, 4), torch.float64)
    assert min(seen) < max(seen) == 32


def test_padding_of_another_id_than_the_ignored_one_is_not_cut(tokenizer: SimpleTokenizer) -> None:
    model = with_tower(no_causal_mask=True, use_pad_mask=True, pool_type="argmax", pad_id=7, context_length=32)
    compare(model, tokenizer, (2, 4), torch.float64)


def test_a_name_of_the_padding_word_keeps_its_context(tokenizer: SimpleTokenizer) -> None:
    """'!' is id 0 in CLIP's vocabulary, which is also its padding: the context's places must not look like padding."""
    model = with_tower(no_causal_mask=True, use_pad_mask=True, pool_type="argmax", context_length=32).double()
    plan = plan_text_path(model)
    tokens = tokenize_prompts(["!", "cat"], tokenizer, plan, context=2)
    swapped = tokenize_prompts(["cat", "!"], tokenizer, plan, context=2)
    contexts = contexts_for(plan, 1, 2, dtype=torch.float64)
    features = PromptEncoder(model, plan, tokens, device=CPU)(contexts)[0]
    other = PromptEncoder(model, plan, swapped, device=CPU)(contexts)[0]
    torch.testing.assert_close(features, other.flip(0), rtol=0, atol=1e-12)
    gradient = torch.autograd.grad(features[0].sum(), contexts)[0]
    assert gradient.abs().max() > 1e-3


FULL = {
    "bidirectional": (lambda: custom(no_causal_mask=True, context_length=32), "attention is bidirectional"),
    "bidirectional, flat": (lambda: flat(no_causal_mask=True, context_length=32), "attention is bidirectional"),
    "padding ignored, last pooled": (
        lambda: with_tower(no_causal_mask=True, use_pad_mask=True, pool_type="last", context_length=32),
        "attention is bidirectional",
    ),
    "class token": (lambda: custom(embed_cls=True, context_length=32), "class token"),
    "causal, first pooled": (lambda: custom(pool_type="first", context_length=32), "pooling 'first'"),
}


@pytest.mark.parametrize("kind", FULL)
def test_other_towers_go_through_their_own_forward(kind: str, tokenizer: SimpleTokenizer) -> None:
    build, reason = FULL[kind]
    model = build()
    plan = plan_text_path(model)
    assert plan.path == "full"
    assert reason in plan.reason
    if plan.pool != "first":
        compare(model, tokenizer, (2, 4), torch.float64)


def test_full_path_with_plain_words_equals_encode_text(tokenizer: SimpleTokenizer) -> None:
    model = custom(no_causal_mask=True, context_length=32).double()
    plan = plan_text_path(model)
    context = plan.embedding(tokenizer(["a photo of a"])[0, 1:5])
    tokens = tokenize_prompts(NAMES, tokenizer, plan, context=4)
    with torch.no_grad():
        ours = PromptEncoder(model, plan, tokens, device=CPU)(context[None])[0]
        ids = tokenizer([f"a photo of a {name}." for name in NAMES], context_length=32)
        theirs = model.encode_text(ids, normalize=True)
    assert (ours - theirs).abs().max() <= 1e-9


def test_coca_with_its_class_token_takes_the_full_path(tokenizer: SimpleTokenizer) -> None:
    model = CoCa(
        embed_dim=16,
        multimodal_cfg={**TEXT, "context_length": 32},
        text_cfg={**TEXT, "context_length": 32, "embed_cls": True, "output_tokens": True},
        vision_cfg={**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    )
    randomise(model)
    plan = plan_text_path(model)
    assert plan.path == "full"
    assert "class token" in plan.reason
    compare(model, tokenizer, (2, 4), torch.float64)


def test_a_block_of_unknown_make_takes_the_full_path(tokenizer: SimpleTokenizer) -> None:
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
            return 2 * self.inner(x, attn_mask=attn_mask)

    model = custom(context_length=32)
    model.text.transformer.resblocks[1] = Doubled(model.text.transformer.resblocks[1])
    plan = plan_text_path(model)
    assert plan.path == "full"
    assert "Doubled" in plan.reason
    compare(model, tokenizer, (1, 2), torch.float64)


def test_hugging_face_tower_is_truncated(tokenizer: SimpleTokenizer) -> None:
    transformers = pytest.importorskip("transformers", reason="Hugging Face towers need transformers")
    from open_clip.hf_model import HFTextEncoder

    class Words:
        """A tokenizer whose padding is RoBERTa's (1) and whose ids are those of CLIP's, moved out of its way."""

        def __call__(self, texts: Sequence[str], context_length: int) -> Tensor:
            ids = SimpleTokenizer()(texts, context_length)
            return torch.where(ids == 0, 1, ids % 1000 + 5)

    config = transformers.RobertaConfig(
        vocab_size=1005, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = custom()
    model.text = HFTextEncoder("roberta", output_dim=16, config=config, pooler_type="mean_pooler", proj_type="mlp")
    model.context_length = 40
    randomise(model)
    plan = plan_text_path(model)
    assert (plan.path, plan.reason) == ("truncated", "a Hugging Face tower that masks its padding")
    compare(model, Words(), (2, 4), torch.float64)
    context = plan.embedding(Words()(["a photo of a"], 40)[0, 1:5])
    tokens = tokenize_prompts(NAMES, Words(), plan, context=4)
    with torch.no_grad():
        ours = PromptEncoder(model, plan, tokens, device=CPU)(context[None])[0]
        theirs = model.encode_text(Words()([f"a photo of a {name}." for name in NAMES], 40), normalize=True)
    assert (ours - theirs).abs().max() <= 1e-9


# Chunks, recomputation and memory.


def encoder_of(model: nn.Module, tokenizer: SimpleTokenizer, **options: Any) -> tuple[PromptEncoder, TowerPlan]:
    plan, tokens = tokens_of(model, tokenizer, options.pop("context", 4))
    return PromptEncoder(model, plan, tokens, device=CPU, **options), plan


@pytest.mark.parametrize("budget", [1, 100_000, 300_000, 1_000_000, 2**30])
@pytest.mark.parametrize("shape", [(2, 4), (2, len(NAMES), 4)])
@pytest.mark.parametrize("kind", ["CLIP", "bidirectional"])
def test_no_budget_changes_features_or_gradients(
    kind: str, shape: tuple[int, ...], budget: int, tokenizer: SimpleTokenizer
) -> None:
    model = (CAUSAL[kind]() if kind in CAUSAL else FULL[kind][0]()).double()
    unlimited, plan = encoder_of(model, tokenizer)
    limited, _ = encoder_of(model, tokenizer, budget=budget)
    contexts = contexts_for(plan, *shape, dtype=torch.float64)
    features, gradient = features_and_gradient(unlimited(contexts), contexts)
    chunked, chunked_gradient = features_and_gradient(limited(contexts), contexts)
    torch.testing.assert_close(chunked, features, rtol=0, atol=1e-12)
    torch.testing.assert_close(chunked_gradient, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("most", [1, 3])
def test_chunks_of_few_classes_give_the_same_gradients_each_its_own(
    most: int, tokenizer: SimpleTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = flat().double()
    unlimited, plan = encoder_of(model, tokenizer)
    contexts = contexts_for(plan, 2, 4, dtype=torch.float64)
    features = unlimited(contexts).detach()
    monkeypatch.setattr("negprompt_cli.engine.prompt_learners.prompt_encoder.MOST_CLASSES", most)
    limited, _ = encoder_of(model, tokenizer)
    leaves, apart = limited.encode_apart(contexts)
    chunks = limited.chunked(tuple(contexts.shape))
    assert len(leaves) == len(chunks) == math.ceil(len(NAMES) / most)
    torch.testing.assert_close(apart, features, rtol=0, atol=1e-12)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (apart * weights).sum().backward()
    (whole,) = torch.autograd.grad((unlimited(contexts) * weights).sum(), contexts)
    torch.testing.assert_close(sum(leaf.grad for leaf in leaves), whole, rtol=1e-9, atol=1e-12)
    for leaf, chunk in zip(leaves, chunks, strict=True):
        (alone,) = torch.autograd.grad((unlimited(contexts) * weights)[:, list(chunk)].sum(), contexts)
        torch.testing.assert_close(leaf.grad, alone, rtol=1e-9, atol=1e-12)


def test_classes_keep_their_order(tokenizer: SimpleTokenizer) -> None:
    """Each class's row is what the class alone gives, though the layout sorts by length."""
    model = flat().double()
    encoder, plan = encoder_of(model, tokenizer, budget=200_000)
    contexts = contexts_for(plan, 1, 4, dtype=torch.float64)
    with torch.no_grad():
        rows = encoder(contexts)[0]
        for name, row in zip(NAMES, rows, strict=True):
            alone = tokenize_prompts([name], tokenizer, plan, context=4)
            torch.testing.assert_close(PromptEncoder(model, plan, alone, device=CPU)(contexts)[0, 0], row)


def test_running_out_of_memory_makes_chunks_smaller_and_says_so_once(
    tokenizer: SimpleTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    model = flat()
    # All names fit one chunk of this budget and three do not fit half of it.
    encoder, plan = encoder_of(model, tokenizer, budget=_bytes_of_all(model, tokenizer), notice=notices.append)
    contexts = contexts_for(plan, 2, 4)
    expected = encoder(contexts).detach()
    room_for(len(NAMES) - 1, monkeypatch)
    torch.testing.assert_close(encoder(contexts).detach(), expected)
    assert len(notices) == 1
    assert "out of memory" in notices[0]
    torch.testing.assert_close(encoder(contexts).detach(), expected)
    assert len(notices) == 1


def _bytes_of_all(model: nn.Module, tokenizer: SimpleTokenizer) -> int:
    """The least budget that still puts all names into one chunk, found by bisection."""
    low, high = 2**10, 2**30
    while high - low > 2**8:
        middle = (low + high) // 2
        encoder, plan = encoder_of(model, tokenizer, budget=middle)
        low, high = (low, middle) if len(encoder.chunked((2, 4, plan.width))) == 1 else (middle, high)
    return high


def test_a_device_too_small_for_one_class_is_an_error(
    tokenizer: SimpleTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, plan = encoder_of(flat(), tokenizer)
    room_for(0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        encoder(contexts_for(plan, 1, 4))


def test_the_model_is_left_as_it_was(tokenizer: SimpleTokenizer) -> None:
    """The splice hook is gone after a call, also after one that failed."""
    model = custom(no_causal_mask=True, context_length=32)
    ids = tokenizer(["a photo of a cat."], context_length=32)
    before = model.encode_text(ids)
    plan, tokens = tokens_of(model, tokenizer, 4)
    encode_spliced(model, plan, tokens, contexts_for(plan, 1, 4), range(len(NAMES)))
    with pytest.raises(RuntimeError):
        encode_spliced(model, plan, tokens, torch.randn(1, 4, plan.width + 1), range(len(NAMES)))
    torch.testing.assert_close(model.encode_text(ids), before, rtol=0, atol=0)


def test_build_tiny_clip_is_of_the_prefix_kind() -> None:
    assert plan_text_path(build_tiny_clip()).path == "prefix"
