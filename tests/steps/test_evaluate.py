"""Evaluation: what the scores are fed with, against slow references, and the document."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_world import OOD, World, images, make_world, workbench
from recorder import Recorder
from torch import nn

from negprompt_cli.config import load_config
from negprompt_cli.data.sets.spec import parse_spec
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.local_features import encode_local, why_no_local_features
from negprompt_cli.engine.scores import score_names
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.evaluate import evaluation_document, run_evaluate
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.measure import measure
from negprompt_cli.steps.shared.templates import encode_zero_shot, template_texts


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip) -> World:
    return make_world(tmp_path_factory.mktemp("world"), tiny_clip)


def _pixels(clip: Clip, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_knn_compares_with_the_very_images_the_artifact_was_trained_with(world):
    progress = Recorder()
    measured = measure(world.bench(progress, scores=("knn", "mahalanobis"), neighbours=2), world.artifact)
    assert measured.bank.train_features.shape[0] == 9
    assert measured.bank.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert progress.warned == []
    train = measured.bank.train_features.double().numpy()
    for i, feature in enumerate(measured.ood_sets[0].encoded.features.double().numpy()):
        distances = sorted(float(np.sqrt(((feature - t) ** 2).sum())) for t in train)
        assert measured.ood_sets[0].table.scores["knn"][i] == pytest.approx(-distances[1], abs=1e-6)


def test_broken_images_are_reported_once_and_remembered_features_keep_their_images(tiny_clip, tmp_path):
    images(tmp_path / "photos", 4, seed=0)
    (tmp_path / "photos/1.png").write_bytes(b"")
    progress = Recorder()
    settings = {"data.on_error": "skip", "data.spec": str(tmp_path / "photos"), "compute.workers": 0}
    bench = workbench(load_config(flags=settings), tiny_clip, progress)
    found = bench.image_set(parse_spec(str(tmp_path / "photos")), "ood")
    first, again = bench.encode(found), bench.encode(replace(found, labels=np.arange(4)))
    assert again.labels.tolist() == [0, 2, 3]
    assert again.features.equal(first.features)
    assert [path.name for path in again.images.paths] == ["0.png", "2.png", "3.png"]
    (told,) = progress.warned
    assert "1 broken images" in told and "photos/1.png: the file is empty" in told


def test_cached_texts_give_the_very_scores_of_texts_encoded_anew(world, tmp_path):
    (tmp_path / "words.txt").write_text("stone\nriver\nlamp\n")
    bench = world.bench(scores=("negprompt", "mcm", "neglabel"), words=str(tmp_path / "words.txt"), word_count=2)
    cached = bench.config.model_copy(update={"compute": bench.config.compute.model_copy(update={"cache": True})})
    anew, *others = (measure(workbench(c, world.clip), world.artifact) for c in (bench.config, cached, cached))
    for other in others:
        for name, scores in anew.id_set.table.scores.items():
            assert np.array_equal(other.id_set.table.scores[name], scores)


def test_changed_training_images_are_said(tmp_path, tiny_clip):
    world = make_world(tmp_path, tiny_clip)
    images(tmp_path / "pets" / "train" / "cat", 4, 1234)
    progress = Recorder()
    measure(world.bench(progress, scores=("knn",)), world.artifact)
    assert any("have changed since the artifact was trained" in text for text in progress.warned)


def test_missing_training_images_say_which_scores_need_them(tmp_path, tiny_clip):
    world = make_world(tmp_path, tiny_clip)
    (tmp_path / "pets" / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="knn, mahalanobis: these scores need"):
        measure(world.bench(scores=("knn", "mcm", "mahalanobis")), world.artifact)


def test_an_ensemble_is_the_normalised_mean_of_its_normalised_prompts(tiny_clip):
    names = ["cat", "red fox"]
    found = encode_zero_shot(tiny_clip, names, "openai-7", budget=1 << 28)
    texts = template_texts("openai-7")
    assert len(texts) == 7
    assert len(template_texts("openai-80")) == 80
    for row, name in zip(found, names, strict=True):
        total = torch.zeros(found.shape[1])
        for text in texts:
            tokens = tiny_clip.tokenizer([text.replace("{}", name)])
            total += F.normalize(tiny_clip.model.encode_text(tokens)[0], dim=0)
        torch.testing.assert_close(row, F.normalize(total, dim=0), atol=1e-5, rtol=1e-5)


def test_a_template_without_a_gap_offers_the_ensembles():
    with pytest.raises(UsageError, match="openai-80"):
        template_texts("openai-8")
    assert template_texts("neglabel") == ["the nice {}"]
    assert all(text.count("{}") == 1 for name in ("csp", "csp-phrases") for text in template_texts(name))


def test_local_features_are_the_last_block_with_attention_to_oneself_only(tiny_clip):
    pixels = _pixels(tiny_clip)
    features, local = encode_local(tiny_clip, pixels)
    torch.testing.assert_close(features, tiny_clip.encode_images(pixels), atol=1e-6, rtol=1e-5)
    visual = tiny_clip.model.visual
    with torch.no_grad():
        tokens = visual._embeds(pixels)
        for block in visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
        alone = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf")).fill_diagonal_(0.0)
        tokens = visual.transformer.resblocks[-1](tokens, attn_mask=alone)
        expected = F.normalize(visual.ln_post(tokens)[:, 1:] @ visual.proj, dim=-1)
    assert local.shape == (3, 4, 16)
    torch.testing.assert_close(local, expected, atol=1e-5, rtol=1e-5)
    assert not tiny_clip.model.visual.transformer.resblocks[-1]._forward_pre_hooks


def test_gl_mcm_adds_the_best_patch(world):
    measured = measure(world.bench(scores=("mcm", "gl-mcm"), local_weight=0.5), world.artifact)
    assert list(measured.id_set.table.scores) == ["mcm", "gl-mcm"]
    clip, positives = world.clip, measured.bank.positives
    ood = measured.ood_sets[0]
    from negprompt_cli.data.encoding.images import open_rgb

    for i, path in enumerate(ood.encoded.images.paths):
        _, local = encode_local(clip, clip.preprocess(open_rgb(path))[None])
        best = max(float(torch.softmax(patch @ positives.T, dim=0).max()) for patch in local[0])
        expected = ood.table.scores["mcm"][i] + 0.5 * best
        assert ood.table.scores["gl-mcm"][i] == pytest.approx(expected, abs=1e-5)


def test_a_tower_without_patches_says_why(tiny_clip):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = nn.Linear(2, 2)

    assert why_no_local_features(tiny_clip.model) is None
    assert "Linear" in why_no_local_features(Flat())


def test_the_document_has_every_metric_for_every_set_and_score(world, tmp_path):
    bench = world.bench(scores=("negprompt", "mcm"), recalls=(0.8, 1.0), ci=True, resamples=20)
    result = run_evaluate(bench, tmp_path / "e.json", artifact=world.artifact, overwrite=False)
    document = result.document
    assert [(row.score, row.ood) for row in document.rows] == [
        ("negprompt", "noise"),
        ("negprompt", "average"),
        ("mcm", "noise"),
        ("mcm", "average"),
    ]
    row = document.rows[0]
    assert all(row.ci[metric][0] <= row.figure(metric) <= row.ci[metric][1] for metric in ("auroc", "aupr_in"))
    assert row.images == OOD
    assert row.fpr["1"].id_positive >= row.fpr["0.8"].id_positive
    assert document.rows[1].ci is None
    assert document.limited is False
    assert len(document.id.files_sha256) == 64
    assert (tmp_path / "e.config.yaml").is_file()


def test_all_scores_leave_out_what_cannot_be_computed_with_the_reason(tmp_path, tiny_clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    world = make_world(tmp_path, tiny_clip)
    (tmp_path / "pets" / "train").rename(tmp_path / "elsewhere")
    progress = Recorder()
    measured = measure(world.bench(progress, scores=("all",)), ArtifactFile(world.run / "positive.safetensors"))
    assert set(measured.scores) | set(measured.left_out) == set(score_names())
    assert {"mcm", "mcm-zero-shot", "max-logit", "gl-mcm"} <= set(measured.scores)
    assert "only positive prompts" in measured.left_out["negprompt"]
    assert "nltk" in measured.left_out["neglabel"]
    assert "cannot be found" in measured.left_out["knn"]
    assert set(measured.id_set.table.scores) == set(measured.scores)


def test_templates_one_by_one_are_evaluations_with_each(world, tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("# own\na photo of a {}.\n\n{} on a table\n")
    bench = world.bench(scores=("negprompt", "mcm-zero-shot"), templates=str(file))
    document = evaluation_document(bench, measure(bench, world.artifact, keep_features=False), world.prompts)
    found = {(one.template, one.ood): one for one in document.templates}
    assert len(found) == len(document.templates) == 4
    for template in ("a photo of a {}.", "{} on a table"):
        alone = world.bench(scores=("mcm-zero-shot",), template=template)
        for row in evaluation_document(alone, measure(alone, world.artifact), world.prompts).rows:
            mine = found[template, row.ood]
            for metric in ("auroc", "fpr95_id_positive", "fpr95_ood_positive"):
                assert getattr(mine, metric) == row.figure(metric)
    title, header, rows = document.template_spread()
    assert "2 templates" in title and header == ["score", "noise", "average"] and len(rows) == 1
    for scores, templates, said in (
        (("mcm",), str(file), "zero-shot prompts"),
        (("mcm-zero-shot",), "openai-8", "openai-80"),
    ):
        with pytest.raises(UsageError, match=said):
            measure(world.bench(scores=scores, templates=templates), world.artifact)
    file.write_text("no place\n")
    with pytest.raises(UsageError, match=r"has no .* for the class name"):
        measure(world.bench(scores=("mcm-zero-shot",), templates=str(file)), world.artifact)


def test_an_artifact_of_a_limited_training_stays_limited(world):
    bench = world.bench(scores=("mcm",))
    measured = measure(bench, world.artifact)
    trained = measured.prompts.config.model_copy(
        update={"data": measured.prompts.config.data.model_copy(update={"limit": 5})}
    )
    from dataclasses import replace

    marked = replace(measured, prompts=replace(measured.prompts, config=trained))
    assert evaluation_document(bench, measured, world.prompts).limited is False
    assert evaluation_document(bench, marked, world.prompts).limited is True


def test_an_evaluation_lets_go_of_features_it_has_scored(world, tmp_path):
    result = run_evaluate(world.bench(), tmp_path / "evaluation.json", artifact=world.artifact, overwrite=False)
    for scored in (result.measured.id_set, *result.measured.ood_sets):
        assert scored.encoded.features.numel() == 0
        assert len(scored.encoded) == len(scored.table.predictions) > 0
    assert len(measure(world.bench(), world.artifact).id_set.encoded.features) == result.document.id.images
