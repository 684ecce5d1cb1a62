"""The table of test-time scores: names, formulas, papers. Importing it needs no torch."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from negprompt_cli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from negprompt_cli.engine.test_time.stream import Stream


@dataclass(frozen=True)
class TestTimeScore:
    """The record of one test-time score; `function` is the `module:function` that maps a `Stream` to (N,) scores."""

    __test__ = False  # pytest would collect the class because of its name.

    name: str
    title: str
    formula: str
    paper: str
    url: str
    function: str

    def load(self) -> "Callable[[Stream], Tensor]":
        """Import and return the function that maps a stream of N images to (N,) float64 scores, higher = more ID."""
        module, function = self.function.split(":")
        loaded = getattr(importlib.import_module(f"negprompt_cli.engine.test_time.{module}"), function)
        return cast("Callable[[Stream], Tensor]", loaded)


TEST_TIME_SCORES: Mapping[str, TestTimeScore] = MappingProxyType(
    {
        score.name: score
        for score in (
            TestTimeScore(
                name="adaneg",
                title="NegLabel plus NegLabel with names and words adapted to test images",
                formula="neglabel(f) + 0.1 neglabel with each name and word replaced by a mean of it and of the test images "
                "stored with it, weighted by exp(-5.5 (1 - cosine with f))",
                paper="Zhang et al., AdaNeg: adaptive negative proxy guided OOD detection with vision-language models, "
                "NeurIPS 2024",
                url="https://openreview.net/forum?id=vS5NC7jtCI",
                function="adaneg:adaneg",
            ),
            TestTimeScore(
                name="tanl",
                title="NegLabel with the words that suspected OOD images activate",
                formula="mean over m of neglabel(f) with the first m words, ranked by their mean probability for suspected "
                "OOD images minus that for suspected ID images",
                paper="TANL, CVPR 2026",
                url="https://github.com/YBZh/OpenOOD-VLM",
                function="tanl:tanl",
            ),
        )
    }
)


def find_test_time_score(name: str) -> TestTimeScore:
    """Return the record of a test-time score.

    Raises:
        UsageError: there is no such score; the message offers the nearest names.
    """
    if name not in TEST_TIME_SCORES:
        raise UsageError(f"Unknown test-time score {name!r}.{did_you_mean(name, TEST_TIME_SCORES)}")
    return TEST_TIME_SCORES[name]
