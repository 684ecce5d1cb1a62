"""Zero-shot prompt templates: one text, or an ensemble whose features are averaged (Radford et al., 2021, section 3.1.4).

With an ensemble, the feature of a class is the mean of its L2-normalised prompt features, normalised again, as in CLIP's own
evaluation. The ensembles are open_clip's lists (the 80 templates for ImageNet, and 7 of these) and those of papers whose
scores compare with words (`data/studies/templates.yaml`). Class names and words share the template: another template alone
moves the cosines of words with all images.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from negprompt_cli.data.files.textfile import read_text
from negprompt_cli.data.studies.templates import paper_templates
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import UsageError, did_you_mean

_OF_OPEN_CLIP = {"openai-80": "OPENAI_IMAGENET_TEMPLATES", "openai-7": "SIMPLE_IMAGENET_TEMPLATES"}
ENSEMBLES = (*_OF_OPEN_CLIP, *paper_templates())
"""Names of ensembles."""
MAX_BYTES = 1 << 20
"""Largest size of a file of templates."""


def template_texts(template: str) -> list[str]:
    """The texts of a template or an ensemble, each with {} for the class name.

    Raises:
        UsageError: `template` is neither a text with {} nor the name of an ensemble.
    """
    if "{}" in template:
        return [template]
    if template not in ENSEMBLES:
        raise UsageError(
            f"The template '{template}' has no {{}} for the class name and is not an ensemble."
            f"{did_you_mean(template, ENSEMBLES)}"
        )
    if template in paper_templates():
        return list(paper_templates()[template].templates)
    import open_clip

    return [make("{}") for make in getattr(open_clip, _OF_OPEN_CLIP[template])]


def template_list(source: str) -> list[str]:
    """Templates to try one by one: those of an ensemble, or the lines of a file (# comments), each with {} for the name.

    Raises:
        UsageError: `source` is neither an ensemble nor a file, a line has no {}, or there are no lines.
    """
    if source in ENSEMBLES:
        return template_texts(source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise UsageError(
            f"There is no file {source} with one template per line, and no ensemble of that name."
            f"{did_you_mean(source, ENSEMBLES)}"
        )
    lines = [line.strip() for line in read_text(path, most=MAX_BYTES, what="a list of templates").splitlines()]
    texts = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if bad := [text for text in texts if "{}" not in text]:
        raise UsageError(f"{source}: the template '{bad[0]}' has no {{}} for the class name.")
    if not texts:
        raise UsageError(f"{source} has no templates. Write one per line, with {{}} for the class name.")
    return texts


def encode_zero_shot(clip: Clip, names: list[str], template: str, *, budget: int) -> Tensor:
    """Features (K, F) of K class names in a template or an ensemble, L2-normalised.

    Raises:
        UsageError: as `template_texts`, or a prompt that is too long for the text tower.
    """
    texts = template_texts(template)
    features = [clip.encode_template(names, template=text, budget=budget) for text in texts]
    return features[0] if len(features) == 1 else F.normalize(torch.stack(features).mean(dim=0), dim=-1)
