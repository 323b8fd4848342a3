"""What a sequence of the engine `torch` was given is not held for longer than it is needed: it is booked for no longer."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from cloud_node.engine.lane import Lane
from cloud_node.engine.protocol import CachedPrefix, SequenceRequest
from cloud_node.engine.recent import RecentMean
from cloud_node.engine.torch_engine import TorchEngine
from splitvlm.domain import IMAGE, TOKENS
from splitvlm.model.batch.decoder import BatchedDecoder
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.parts import CloudPart
from splitvlm.model.prefix import Prefix
from splitvlm.model.prompt import Prompt
from tests.samples import tiny_model
from tests.tiny_models import picture

FAMILIES = ("scenes-like", "qwen2.5-vl")  # prompts are read in chunks, and whole


def request_of(family: str) -> tuple[CloudPart, SequenceRequest]:
    folder = tiny_model(family)
    boundary = (
        load_device(folder, [TOKENS], threads=1).lower(Prompt.about(picture(64, 64), "What is it?"), TOKENS).boundary
    )
    inputs = {name: tensor.clone() for name, tensor in boundary.items()}
    request = SequenceRequest(device="edge-1", cut=TOKENS, inputs=inputs, max_new_tokens=40)
    return load_cloud(folder, [IMAGE], threads=1), request


def engine_of(part: CloudPart) -> TorchEngine:
    return TorchEngine(part, 2**26, lambda between: Lane("torch", RecentMean(1.0), between=between))


def lives(reference: weakref.ref[torch.Tensor]) -> bool:
    gc.collect()
    return reference() is not None


@pytest.mark.parametrize("family", FAMILIES)
async def test_inputs_go_when_the_prompt_was_read(family: str) -> None:
    part, request = request_of(family)
    engine, given = engine_of(part), weakref.ref(request.inputs["hidden"])
    sequence = engine.start(request)
    del request
    assert lives(given)
    await sequence.prefill()
    assert not lives(given)
    sequence.cancel()
    assert engine.close()


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_prefix_that_nobody_keeps_goes_when_the_prompt_was_read(family: str) -> None:
    part, request = request_of(family)
    engine, ids = engine_of(part), request.inputs["ids"]
    first = engine.start(replace(request, keep_prefix=True))
    prefix: CachedPrefix | None = await first.prefill()
    assert isinstance(prefix, Prefix)
    keys = weakref.ref(prefix.cache.layers[0].keys)
    other = engine.start(replace(request, inputs={"ids": ids}, prefix=prefix))
    del prefix
    assert lives(keys)
    await other.prefill()
    assert not lives(keys)
    for sequence in (first, other):
        sequence.cancel()
    assert engine.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_the_only_copy_of_a_prompt_s_keys_and_values(family: str) -> None:
    part, request = request_of(family)
    run = part.upper(TOKENS, dict(request.inputs), 8)
    run.first()
    assert run._language is not None
    keys = weakref.ref(run._language._cache.layers[0].keys)
    row = BatchedDecoder(part).add(run)
    assert row.run is run
    assert not lives(keys)
