"""A cloud node beside its peers: transformers' `generate_batch` and vLLM for CPUs, on the same language model.

    tokens_per_s[peer][N]  = answers' tokens / seconds, while N sequences run and each is followed by another; median
    torch_over_vllm_at_16  = tokens/s of a node with the engine torch / tokens/s of vLLM alone, at 16
    node_vllm_over_bare    = tokens/s of a node with the engine vllm / tokens/s of vLLM alone, the least over all N

vLLM alone is measured as it sets itself up (`vllm`: scheduler and model in two processes, which wait for each other in busy
loops, and one core kept for the scheduler), and with both in one process on all threads (`vllm-one-process`); ratios take the
faster.

- All have one dtype, random weights of one shape in one folder, prompts of the same lengths (recorded features at `tokens` and
  a question) and answers of the same length: end tokens are not obeyed, and a node's `shape:` model does not give one.
- vLLM gets the prompts as embeddings, as a node's engine gives them; `generate_batch` reads ids alone, so it gets random ones.
- Each peer has the machine alone. Rounds start the peers in turn, the second in the reverse order, and so on. Each repeat
  follows an uncounted one.
- Unfairness: devices, TLS, sealing and the decoding of features take their share of the same cores beside a node's engine;
  a peer has the cores for itself.

`python benchmarks/cloud_peers.py [--sequences 1,16] [--peers vllm,splitvlm-vllm] [--dtype bfloat16]`; `--quick` asks little.
It runs in vLLM's environment (`make install-vllm`, `.venv-vllm/bin/python`), devices included: both ends compare hashes of the
model as transformers builds it. Last line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from feature_load import RECORDINGS, feature_load
from safetensors.torch import save_file

from splitvlm.domain import TOKENS
from splitvlm.files.text import parse_json
from splitvlm.local_model import LocalModel
from splitvlm.model.causal_folder import write_causal_folder
from splitvlm.model.loading import load_cloud
from splitvlm.model.prompt import Prompt
from splitvlm.scenes.samples import samples
from splitvlm.tools.launcher import Launcher
from splitvlm.tools.load.run import run_load

ROOT = Path(__file__).parents[1]
KV_BUDGET_BYTES = 2 * 2**30
BARE = ("vllm", "vllm-one-process")
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"

Rates = dict[int, list[float]]  # tokens a second by the number of sequences, one figure a repeat


@dataclass(frozen=True, slots=True)
class Workload:
    """Names the files that all peers read: the language model as a folder, the prompts' embeddings, both in one dtype."""

    folder: Path
    prompts: Path
    lengths: list[int]  # tokens of each prompt
    max_context: int
    vocab_size: int


async def main() -> None:
    options = _options()
    rates: dict[str, Rates] = {peer: {number: [] for number in options.sequences} for peer in options.peers}
    with tempfile.TemporaryDirectory(prefix="splitvlm-peers-") as folder:
        workload = _workload(options, Path(folder))
        for turn in range(options.rounds):
            for peer in options.peers if turn % 2 == 0 else reversed(options.peers):
                for number, figures in (await PEERS[peer](options, workload)).items():
                    rates[peer][number] += figures
                    print(f"{peer:15} {number:3} sequences: {', '.join(f'{rate:.1f}' for rate in figures)} tokens/s")
    print(json.dumps(_summary(options, rates)))


@torch.inference_mode()
def _workload(options: argparse.Namespace, folder: Path) -> Workload:
    """Writes what the peers read."""
    part = load_cloud(options.model, [TOKENS], dtype=options.dtype, threads=options.threads, packed=False)
    local = LocalModel.load(options.model, [TOKENS], threads=options.threads)
    prompts = {
        str(index): part.embedded_prompt(TOKENS, local.boundary(Prompt.about(picture, question), TOKENS).tensors)[
            "hidden"
        ]
        .to(part.model.dtype)
        .contiguous()
        for index, (picture, question) in enumerate(samples(RECORDINGS, options.model))
    }
    write_causal_folder(part, folder / "model")
    save_file(prompts, folder / "prompts.safetensors")
    lengths = [len(prompt) for prompt in prompts.values()]
    return Workload(
        folder / "model", folder / "prompts.safetensors", lengths, part.spec.max_context, part.spec.vocab_size
    )


async def _generate_batch(options: argparse.Namespace, workload: Workload) -> Rates:
    """Measures transformers' continuous batching, in this process."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        workload.folder, dtype=getattr(torch, options.dtype), attn_implementation="sdpa"
    )
    rates = {}
    for number in options.sequences:
        _batched(model, options, workload, number, 1)  # a warm-up
        rates[number] = [_batched(model, options, workload, number, options.answers) for _ in range(options.repeats)]
    del model
    gc.collect()
    return rates


def _batched(model: Any, options: argparse.Namespace, workload: Workload, number: int, answers: int) -> float:
    """Returns tokens a second, the start of its scheduler's thread included."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    torch.manual_seed(0)
    lengths = [workload.lengths[index % RECORDINGS] for index in range(number * answers)]
    inputs = [torch.randint(workload.vocab_size, (length,)).tolist() for length in lengths]
    choice = GenerationConfig(do_sample=False, max_new_tokens=options.tokens, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(num_blocks=2 * number + 2, max_batch_tokens=1024, max_requests_per_batch=number)
    began_s = time.perf_counter()
    outputs = model.generate_batch(inputs, generation_config=choice, continuous_batching_config=batching, warmup=False)
    tokens = sum(len(output.generated_tokens) for output in outputs.values())
    return tokens / (time.perf_counter() - began_s)


async def _vllm(executor: str | None, options: argparse.Namespace, workload: Workload) -> Rates:
    """Measures vLLM alone, in processes of its own environment: as it sets itself up, or with that executor."""
    task = {
        "folder": str(workload.folder),
        "prompts": str(workload.prompts),
        "dtype": options.dtype,
        "max_context": workload.max_context,
        "sequences": options.sequences,
        "tokens": options.tokens,
        "answers": options.answers,
        "repeats": options.repeats,
        "executor": executor,
    }
    environment = {"VLLM_CPU_KVCACHE_SPACE": str(KV_BUDGET_BYTES // 2**30), "VLLM_LOGGING_LEVEL": "WARNING"}
    if executor is not None:
        environment["OMP_NUM_THREADS"] = str(options.threads)
    ended = await asyncio.to_thread(
        subprocess.run,
        [_vllm_python(), str(ROOT / "benchmarks" / "bare_vllm.py")],
        input=json.dumps(task),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    rates: Any = parse_json(ended.stdout.splitlines()[-1], "vLLM's figures")
    return {int(number): figures for number, figures in rates.items()}


async def _node(engine: str, options: argparse.Namespace, workload: Workload) -> Rates:
    """Measures a cloud node, a process of this environment or of vLLM's, under the load of simulated devices."""
    python = _vllm_python() if engine == "vllm" else sys.executable
    settings = {
        "model": {"name": options.model, "dtype": options.dtype, "threads": options.threads},
        "engine": engine,
        "cuts": ["tokens"],
        "limits": {
            "max_sessions": 128,
            "max_sessions_per_device": 8,
            "max_new_tokens": options.tokens,
            "kv_budget_bytes": KV_BUDGET_BYTES,
        },
    }
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        async with Launcher(Path(folder), python=python) as launcher:
            cloud = await launcher.start("cloud", settings)
            for number in options.sequences:
                load = feature_load(options, number, cloud.address, launcher.keys, dtype=options.dtype)
                rates[number] = [(await run_load(load))["output_tokens_per_s"] for _ in range(options.repeats)]
    return rates


def _vllm_python() -> str:
    """Returns the interpreter that has vLLM. Exits with advice where there is none."""
    own = ROOT / ".venv-vllm" / "bin" / "python"
    if own.exists():
        return str(own)
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    raise SystemExit("vLLM is not installed here. Install it with `make install-vllm`, or name other --peers.")


def _summary(options: argparse.Namespace, rates: dict[str, Rates]) -> dict[str, Any]:
    medians = {
        peer: {number: median(figures) for number, figures in by_number.items()} for peer, by_number in rates.items()
    }

    def ratio(peer: str, number: int) -> float | None:
        alone = [medians[name][number] for name in BARE if number in medians.get(name, {})]
        return round(medians[peer][number] / max(alone), 3) if alone and number in medians.get(peer, {}) else None

    node_ratios = [value for number in options.sequences if (value := ratio("splitvlm-vllm", number)) is not None]
    return {
        "model": options.model,
        "dtype": options.dtype,
        "tokens": options.tokens,
        "tokens_per_s": {
            peer: {number: round(rate, 1) for number, rate in by_number.items()} for peer, by_number in medians.items()
        },
        "torch_over_vllm_at_16": ratio("splitvlm-torch", 16),
        "node_vllm_over_bare": min(node_ratios, default=None),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shape:smolvlm-256m")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sequences", default="1,16", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--peers", default=",".join(PEERS), type=lambda text: text.split(","))
    parser.add_argument("--answers", type=int, default=2, help="of each sequence, one after another")
    parser.add_argument("--repeats", type=int, default=3, help="of each peer, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="16 sequences, short answers, one round")
    options = parser.parse_args()
    if unknown := [peer for peer in options.peers if peer not in PEERS]:
        parser.error(f"--peers: {unknown[0]} is not one of {', '.join(PEERS)}")
    if options.quick:
        options.sequences, options.tokens, options.answers, options.repeats, options.rounds = [16], 32, 1, 1, 1
    if {*BARE, "splitvlm-vllm"} & set(options.peers):
        _vllm_python()
    return options


PEERS: dict[str, Callable[[argparse.Namespace, Workload], Awaitable[Rates]]] = {
    "vllm": partial(_vllm, None),
    "vllm-one-process": partial(_vllm, ONE_PROCESS),
    "splitvlm-vllm": partial(_node, "vllm"),
    "splitvlm-torch": partial(_node, "torch"),
    "generate_batch": _generate_batch,
}

if __name__ == "__main__":
    asyncio.run(main())
