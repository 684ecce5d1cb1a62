"""Zero-shot templates of papers whose scores compare with words: the facts of `templates.yaml`, by name."""

from functools import lru_cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class PaperTemplates(BaseModel):
    """The templates of a paper, each with {} for the name, and where they are from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    templates: tuple[str, ...] = Field(min_length=1)


@lru_cache(maxsize=1)
def paper_templates() -> dict[str, PaperTemplates]:
    """The templates that come with the package."""
    text = (resources.files(__package__) / "templates.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, PaperTemplates]).validate_python(yaml.safe_load(text))
