"""vLLM alone answers prompts that it is given as embeddings: a peer of `benchmarks/cloud_peers.py`, which starts this file.

It runs in vLLM's own environment. Standard input says what to do, as JSON; the last line of standard output is
JSON: {sequences: [tokens/s, one figure a repeat]}.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import time
from typing import Any

from safetensors.torch import load_file

from splitvlm.files.text import parse_json


async def main() -> None:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    task: Any = parse_json(sys.stdin.read(), "standard input")
    prompts = list(load_file(task["prompts"]).values())
    options = AsyncEngineArgs(
        model=task["folder"],
        dtype=task["dtype"],
        max_model_len=task["max_context"],
        max_num_seqs=64,
        distributed_executor_backend=task["executor"],
        skip_tokenizer_init=True,
        enable_prompt_embeds=True,
        disable_log_stats=True,
    )
    llm = AsyncLLM.from_engine_args(options)
    try:
        rates = {}
        for sequences in task["sequences"]:
            await _closed_loop(llm, prompts, sequences, task["tokens"], 1)  # a warm-up
            rates[sequences] = [
                await _closed_loop(llm, prompts, sequences, task["tokens"], task["answers"])
                for _ in range(task["repeats"])
            ]
    finally:
        llm.shutdown()
        del llm  # it shuts down once more where it is freed, which fails when the interpreter ends
        gc.collect()
    print(json.dumps(rates))


async def _closed_loop(llm: Any, prompts: list[Any], sequences: int, tokens: int, answers: int) -> float:
    """Returns tokens a second while so many sequences run, each followed by another, until `answers` of each are given."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    numbers = itertools.count()
    choice = SamplingParams(
        temperature=0.0,
        max_tokens=tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )

    async def one_after_another() -> int:
        count = 0
        while (number := next(numbers)) < sequences * answers:
            prompt = {"prompt_embeds": prompts[number % len(prompts)]}
            async for output in llm.generate(prompt, choice, f"{time.monotonic_ns()}-{number}"):
                count += len(output.outputs[0].token_ids)
        return count

    began_s = time.perf_counter()
    counts = await asyncio.gather(*(one_after_another() for _ in range(sequences)))
    return sum(counts) / (time.perf_counter() - began_s)


if __name__ == "__main__":
    asyncio.run(main())
