"""What simulated devices ask for beside their payloads."""

import pytest

from splitvlm.bundle import open_bundle
from splitvlm.domain import GREEDY, Plan, Sampling
from splitvlm.tools.load.recording import record
from tests.samples import tiny_model


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5, top_p=0.9)])
def test_each_payload_is_asked_for_with_its_own_seed_each_time(sampling: Sampling) -> None:
    model = tiny_model("scenes-like")
    plan = Plan.parse("tokens/lossless")
    recorded = record(model, plan, 2, open_bundle(model).codec, sampling, seed=5, threads=1)
    asked = [[payload.request(4).answer.sampling for _ in range(2)] for payload in recorded]
    expected = [Sampling(sampling.temperature, sampling.top_p, seed=seed) for seed in (5, 6)]
    assert asked == [[expected[0]] * 2, [expected[1]] * 2]
    assert all(each.draws == sampling.draws for each in expected)
