"""Stages over workers, against every staging there is."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.errors import ConfigError
from splitvlm.planning.stages import Hop, Layer, Worker, alone, best_stages

layers_st = st.lists(
    st.builds(Layer, st.floats(0.01, 1), st.floats(0.001, 0.1), st.integers(1, 10)), min_size=1, max_size=5
)
workers_st = st.lists(
    st.builds(Worker, st.just("w"), st.integers(1, 40), st.sampled_from([0.5, 1.0, 4.0])), min_size=1, max_size=4
)
hops = st.builds(Hop, st.floats(0, 0.5), st.floats(0, 0.05))


def brute(layers: list[Layer], workers: list[Worker], hop: Hop, n_tokens: int) -> float | None:
    """The least latency of all subsets of workers in their order and all ways to divide the layers among them."""
    found = []
    for count in range(1, len(workers) + 1):
        for chosen in combinations(workers, count):
            for bounds in combinations(range(1, len(layers)), count - 1):
                ends = (0, *bounds, len(layers))
                parts = [layers[a:b] for a, b in pairwise(ends)]
                if all(sum(x.memory_bytes for x in p) <= w.memory_bytes for p, w in zip(parts, chosen, strict=True)):
                    spent_s = sum(
                        (x.prefill_s + n_tokens * x.step_s) / w.speed
                        for p, w in zip(parts, chosen, strict=True)
                        for x in p
                    )
                    found.append(spent_s + (count - 1) * (hop.prefill_s + n_tokens * hop.step_s))
    return min(found, default=None)


@given(layers_st, workers_st, hops, st.integers(0, 20))
def test_it_is_the_best_of_all(layers, workers, hop, n_tokens):
    expected = brute(layers, workers, hop, n_tokens)
    if expected is None:
        with pytest.raises(ConfigError, match="cannot hold it"):
            best_stages(layers, workers, hop, n_tokens)
        return
    staging = best_stages(layers, workers, hop, n_tokens)
    assert staging.latency_s == pytest.approx(expected)
    assert staging.stages[0].first == 0
    assert staging.stages[-1].end == len(layers)
    assert all(a.end == b.first for a, b in pairwise(staging.stages))


def test_one_worker_is_a_legal_answer():
    layers = [Layer(0.1, 0.01, 10)] * 8
    small, large = Worker("small", 40, 2.0), Worker("large", 100, 1.0)
    assert [s.worker.name for s in best_stages(layers, [small, large], Hop(0.5, 0.05), 10).stages] == ["large"]
    assert alone(layers, [small, large], 10) == {"small": float("inf"), "large": pytest.approx(1.6)}
    divided = best_stages(layers, [small, large], Hop(0.001, 0.0001), 10)
    assert [(s.worker.name, s.first, s.end) for s in divided.stages] == [("small", 0, 4), ("large", 4, 8)]
