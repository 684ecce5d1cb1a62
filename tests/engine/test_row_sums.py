"""Sums over prompts against loops, on the ways that a CPU has and on those of exports and of many threads."""

import pytest
import torch

from negprompt_cli.engine.scores.row_sums import MOST_THREADS, row_sums, sum_of_highest


@pytest.fixture(params=[1, MOST_THREADS + 1])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("exact", [torch.float32, torch.float64])
@pytest.mark.usefixtures("threads")
def test_sums_against_loops(exact):
    # Ties at the last place that counts, and rows that are equal throughout.
    values = torch.tensor([[0.25, -1.0, 0.5, 0.25, 0.25], [0.1] * 5, [5.0, 4.0, 3.0, 2.0, 1.0]])
    before = values.clone()
    for count in range(1, 6):
        expected = [sum(sorted(row, reverse=True)[:count]) for row in values.double().tolist()]
        found = sum_of_highest(values, count, exact=exact)
        assert found.dtype is exact and found.tolist() == pytest.approx(expected, abs=1e-6)
    assert row_sums(values, exact=exact).tolist() == pytest.approx([sum(row) for row in values.tolist()], abs=1e-6)
    assert row_sums(values[0], exact=exact).shape == ()
    assert torch.equal(values, before)


@pytest.mark.usefixtures("threads")
def test_float64_sums_keep_what_float32_would_round():
    terms = torch.full((2, 100_001), 1e-8)
    terms[:, 0] = 1
    assert row_sums(terms, exact=torch.float64).tolist() == pytest.approx([1 + 1e-3] * 2, rel=1e-9)


def test_a_gradient_flows():
    values = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    (sum_of_highest(values, 2, exact=torch.float64) + row_sums(values, exact=torch.float64)).sum().backward()
    assert values.grad.tolist() == [[2.0, 1.0, 2.0]]
