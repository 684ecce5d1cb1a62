"""Zero-shot templates of papers whose scores use words, from `templates.yaml`."""

from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from negprompt_cli.data.files.yamlfile import package_yaml


class PaperTemplates(BaseModel):
    """The templates of a paper, each with {} for the name, and their source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    templates: tuple[str, ...] = Field(min_length=1)


@lru_cache(maxsize=1)
def paper_templates() -> dict[str, PaperTemplates]:
    """Return the templates that are part of the package, by name."""
    return TypeAdapter(dict[str, PaperTemplates]).validate_python(package_yaml(__package__, "templates.yaml"))
