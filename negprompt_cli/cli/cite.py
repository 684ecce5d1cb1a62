"""`negprompt cite`: BibTeX, and what a paper needs to say of a result."""

import json
from pathlib import Path
from typing import Annotated

import typer

from negprompt_cli.cli import completion
from negprompt_cli.cli.console import hanging
from negprompt_cli.cli.options import Common, only, option

EXAMPLES = (
    "negprompt cite > negprompt.bib",
    "negprompt cite runs/imagenet",
)


def cite(
    common: Annotated[Common, only("json")],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, or evaluation JSON files.", metavar="RUN", show_default=False),
    ] = None,
    score: Annotated[
        str | None,
        option("--score", autocompletion=completion.scores, help="Score whose figures are given (default negprompt)."),
    ] = None,
) -> None:
    """Print BibTeX, and the sentence a paper needs for a result.

    Without a run it prints the entries of the paper and of this software. With runs it also describes each evaluation in a
    paragraph, with model, prompts, data, figures and versions, and names whom to cite for its scores and data sets.
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
