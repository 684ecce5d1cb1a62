"""The table of scores: its records, its checks, and that reading it costs no import of torch."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from negprompt_cli.config import EvaluateConfig
from negprompt_cli.engine.scores import SCORES, check_scores, find_score, score_names
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError

BARE = ScoreInputs(torch.eye(3), None, None, logit_scale=1.0)


def test_importing_the_names_does_not_import_torch():
    code = (
        "import sys; from negprompt_cli.engine.scores import score_names; assert score_names();"
        "print([m for m in ('torch', 'numpy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", score_names())
def test_records_are_complete_and_frozen(name):
    score = find_score(name)
    assert score.name == name
    assert callable(score.load())
    assert all((score.title, score.formula, score.paper))
    assert score.url.startswith("https://")
    fields = {field.name for field in dataclasses.fields(ScoreInputs)} | {"local_features"}
    assert score.requires
    assert set(score.requires) <= fields
    with pytest.raises(dataclasses.FrozenInstanceError):
        score.name = "other"
    with pytest.raises(TypeError):
        SCORES[name] = score


def test_the_contract_s_scores_are_the_default():
    assert EvaluateConfig().scores == ("negprompt", "mcm", "mcm-zero-shot", "max-logit", "energy")
    assert set(EvaluateConfig().scores) <= set(score_names())


def test_an_unknown_score_offers_the_nearest():
    with pytest.raises(UsageError, match=r"Unknown score 'negpromt'. Did you mean 'negprompt'"):
        check_scores(["mcm", "negpromt"], BARE)


@pytest.mark.parametrize("name", score_names())
def test_a_score_that_lacks_something_says_what_and_which_scores_would_do(name):
    if set(SCORES[name].requires) == {"positives"}:
        check_scores([name], BARE)
        return
    with pytest.raises(UsageError) as caught:
        check_scores(["mcm", name], BARE)
    assert str(caught.value).startswith(f"Score {name!r} needs ")
    assert str(caught.value).endswith("here: mcm, mcm-clip-t, max-logit, logit-gap, energy, entropy.")


def test_with_everything_given_all_scores_pass():
    bank = ScoreInputs(
        torch.eye(3),
        torch.eye(3)[:, None],
        torch.eye(3),
        1.0,
        words=torch.eye(3),
        words_by_images=torch.eye(3),
        words_filtered=torch.eye(3),
        csp_words=torch.eye(3),
        pair_features=lambda places: torch.eye(3)[places[:, 0]],
        train_features=torch.eye(3),
        train_labels=torch.arange(3),
    )
    check_scores(score_names(), bank, has_local_features=True)
    with pytest.raises(UsageError, match=r"'gl-mcm' needs local \(patch\) features, which"):
        check_scores(score_names(), bank)
    with pytest.raises(UsageError, match="features of ID training images and labels of ID training images"):
        check_scores(["mahalanobis"], dataclasses.replace(bank, train_features=None, train_labels=None))
