"""BibTeX entries of the paper and of this software, from `citations.bib` with the version inserted."""

from importlib import resources

from negprompt_cli._version import __version__


def bibtex() -> str:
    """Return the entries `li2024negprompt` and `negprompt`."""
    text = (resources.files(__package__) / "citations.bib").read_text(encoding="utf-8")
    return text.replace("{VERSION}", f"{{{__version__}}}")
