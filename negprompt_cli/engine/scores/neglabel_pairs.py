"""NegRefine's score for images that show an ID class and something else: NegLabel plus the best text that names both.

    S(f) = NegLabel(f) + 2 max_{i,w} exp(s <t_iw,f>) / (exp(s <t_iw,f>) + exp(s <w,f>))

i is one of the 5 zero-shot positives and w one of the 5 negative words with the highest cosines. t_iw is the feature of the
text "<name of i> and <w>". If an image shows both a class and something else, it matches the text of both better than the
word alone. Scores are in (0, 3).

Source: Ansari et al., "NegRefine: refining negative label-based zero-shot OOD detection", ICCV 2025; the weight, the numbers
and the maximum are those of the official code. The words are those of `neglabel-filtered`, filtered by WordNet; the paper
uses a language model, and phrases with adjectives too.
"""

import torch
from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock
from negprompt_cli.engine.scores.neglabel import share_of_names

STRONGEST = 5
"""Number of positives, and of words, that form pairs."""
WEIGHT = 2.0
"""Weight of the best pair."""


def neglabel_pairs(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images.

    Raises:
        UsageError: there are fewer words than groups.
    """
    return share_of_names(block, "words_filtered") + WEIGHT * best_pair(block)


def best_pair(block: ImageBlock) -> Tensor:
    """Return (B,): the highest softmax share of a pair's text against its word alone.

    Raises:
        ValueError: the block has no pair features.
    """
    bank, exact = block.setup.bank, block.setup.exact
    if bank.pair_features is None:
        raise ValueError("pairs need pair_features")
    names, words = block.cosines("zero_shot"), block.cosines("words_filtered")
    positives = names.topk(min(STRONGEST, names.shape[1]), dim=1).indices
    alone, negatives = words.topk(min(STRONGEST, words.shape[1]), dim=1)
    place = positives[:, :, None] * words.shape[1] + negatives[:, None, :]
    # Images of the same class share many texts, so each text is encoded once.
    texts, which = place.flatten().unique(return_inverse=True)
    pairs = torch.stack([texts // words.shape[1], texts % words.shape[1]], dim=1)
    features = bank.pair_features(pairs).to(block.features)[which.view_as(place)]
    together = torch.einsum("bd,bpwd->bpw", block.features.to(exact), features.to(exact))
    share: Tensor = (bank.logit_scale * (together - alone[:, None].to(exact))).sigmoid()
    return share.amax(dim=(1, 2))
