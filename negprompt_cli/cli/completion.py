"""What the shell completes: names that a person would otherwise look up. Modules are imported only when needed."""

from collections.abc import Iterable


def sets(incomplete: str) -> list[str]:
    """Names in the catalogue, also after a comma."""
    from negprompt_cli.data.sets.catalogue import built_in

    return _behind_commas(incomplete, built_in().sets)


def scores(incomplete: str) -> list[str]:
    """Names of scores, also after a comma."""
    from negprompt_cli.engine.scores import score_names

    return _behind_commas(incomplete, score_names())


def scores_or_all(incomplete: str) -> list[str]:
    """Names of scores and the word `all`, also after a comma."""
    return [*_behind_commas(incomplete, ("all",)), *scores(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Names of presets."""
    from negprompt_cli.config import preset_names

    return _behind_commas(incomplete, preset_names())


def devices(incomplete: str) -> list[str]:
    """Names of devices, whether this machine has them or not."""
    return _behind_commas(incomplete, ("auto", "cpu", "cuda", "mps"))


def _behind_commas(incomplete: str, names: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
