"""What the shell completes: names that a person would otherwise look up. Everything is imported when it is asked for."""

from collections.abc import Iterable


def sets(incomplete: str) -> list[str]:
    """Names of the catalogue, also behind a comma."""
    from negprompt_cli.data.sets.catalogue import built_in

    return _behind_commas(incomplete, built_in().sets)


def scores(incomplete: str) -> list[str]:
    """Names of scores, also behind a comma."""
    from negprompt_cli.engine.scores import score_names

    return _behind_commas(incomplete, score_names())


def scores_or_all(incomplete: str) -> list[str]:
    """Names of scores and the word for all of them, also behind a comma."""
    return [*_behind_commas(incomplete, ("all",)), *scores(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Names of presets."""
    from negprompt_cli.config import preset_names

    return _behind_commas(incomplete, preset_names())


def devices(incomplete: str) -> list[str]:
    """Devices that can be named anywhere."""
    return _behind_commas(incomplete, ("auto", "cpu", "cuda", "mps"))


def _behind_commas(incomplete: str, names: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
