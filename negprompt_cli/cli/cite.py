"""`negprompt cite`: BibTeX entries, and a paragraph about each result."""

import json
from pathlib import Path
from typing import Annotated

import typer

from negprompt_cli.cli import completion
from negprompt_cli.cli.console import hanging
from negprompt_cli.cli.options import Common, argument, only, option

EXAMPLES = (
    "negprompt cite > negprompt.bib",
    "negprompt cite runs/imagenet",
)


def cite(
    common: Annotated[Common, only("json")],
    runs: list[Path] | None = argument("RUN", "Run folders, or evaluation JSON files.", default=None),
    score: str | None = option("Score to report (default negprompt).", autocompletion=completion.scores),
) -> None:
    """Print BibTeX entries, and a paragraph about a result.

    Without a run it prints the entries of the paper and of this software. For each run it also prints a paragraph with the
    model, prompts, data, figures and versions, and the references of the scores and data sets.
    """
    from negprompt_cli.data.studies.citations import bibtex
    from negprompt_cli.steps.cite import cite_runs, to_document

    citations = cite_runs(runs or [], score=score)
    if common.json:
        typer.echo(json.dumps(to_document(citations), indent=1))
        return
    for citation in citations:
        typer.echo(f"{citation.path}\n\n{hanging('', citation.paragraph)}\n")
        for title, references in (("Scores", citation.scores), ("Data sets", citation.data)):
            if references:
                typer.echo(f"{title} to cite:")
                by_reference: dict[str, list[str]] = {}
                for name, reference in references.items():
                    by_reference.setdefault(" ".join(reference.split()), []).append(name)
                for reference, names in by_reference.items():
                    typer.echo(hanging("  ", f"{', '.join(names)}: {reference}"))
                typer.echo()
    typer.echo(bibtex(), nl=False)
