"""What the engine vllm does not do is refused by name before vLLM sees it: no vLLM is needed to say so."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cloud_node.engine.protocol import SequenceRequest
from cloud_node.engine.vllm import VllmEngine
from splitvlm.domain import JSON_OBJECT, TOKENS, Choices, Sampling
from splitvlm.errors import UsageError


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        (Sampling(temperature=1.0), "greedy"),
        (Sampling(constraint=JSON_OBJECT), "structured"),
        (Sampling(constraint=Choices(("yes", "no"))), "structured"),
        (Sampling(top_logprobs=0), "log-probabilities"),
    ],
)
def test_a_request_that_it_cannot_serve_is_refused_by_name(sampling: Sampling, named: str) -> None:
    request = SequenceRequest(device="edge-1", cut=TOKENS, inputs={}, max_new_tokens=4, sampling=sampling)
    with pytest.raises(UsageError, match=named):
        VllmEngine.start(cast(Any, None), request)
