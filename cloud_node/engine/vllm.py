"""The engine `vllm`: this process runs the tower, the connector and the embeddings, vLLM all layers of the language model.

It serves the cuts up to `tokens`. vLLM gets a prompt as embeddings [T, D], batches sequences by its own scheduler in a process
of its own, or two where there are many cores, and gives token ids. What a peer sent is checked before vLLM sees it (counts,
widths, finite numbers). Nothing is kept for another question about the same picture: the prefix cache of vLLM does not hold
prompts that came as embeddings.

vLLM brings its own torch and transformers, so it lives in an environment of its own (`make install-vllm`); no other file
imports it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cloud_node.engine.lane import Lane
from cloud_node.engine.protocol import CachedPrefix, JobTimes, MemoryNeed, SequenceRequest, SequenceTimes
from splitvlm.domain import CutKind, Sampling
from splitvlm.errors import ConfigError, SplitvlmError, UsageError
from splitvlm.model.causal_folder import check_causal, write_causal_folder
from splitvlm.model.packed_linear import pack_linears
from splitvlm.model.parts import CloudPart
from splitvlm.model.sampling import end_token_ids

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
GIB = 2**30
MOST_SEQUENCES = 64  # that vLLM batches; more wait in its queue
MOST_CORES_OF_ONE_PROCESS = 8  # the core that vLLM keeps for its scheduler is an eighth of them, and no less of fewer
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


class VllmSequence:
    """Is one answer. A task of its own reads vLLM's output, so that giving it up needs no waiting."""

    def __init__(self, engine: VllmEngine, request: SequenceRequest) -> None:
        self.times = SequenceTimes()
        self._engine = engine
        self._request = request
        resumed = request.resume_token_ids
        self.finished = bool(resumed) and resumed[-1] in engine.end_ids
        self._ids: asyncio.Queue[int | BaseException | None] = asyncio.Queue()
        self._first_s: float | None = None
        self._reading: asyncio.Task[None] | None = None
        self._next: int | BaseException | None = None

    async def read_tile(self, tile: Mapping[str, torch.Tensor]) -> None:
        """Is never called: the engine does not prefill by tile."""
        raise AssertionError("the session joins tiles for an engine that does not prefill by tile")

    async def prefill(self) -> CachedPrefix | None:
        """Runs what lies below the language model, hands the prompt to vLLM, and waits for the first token."""
        loop = asyncio.get_running_loop()
        states_TD, spent = await self._engine.in_turn(self._request.device, self._prompt)
        self.times.queue_s += spent.queue_s
        began_s = loop.time()
        if not self.finished:
            self._reading = loop.create_task(self._read(states_TD))
            self._next = await self._ids.get()
        self._first_s = loop.time()
        self.times.prefill_s += spent.busy_s + self._first_s - began_s
        if isinstance(self._next, BaseException):
            raise self._next
        return None

    def feed(self, step: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Is never called: the engine does not serve `lm:k`."""
        raise AssertionError("only lm:k has steps")

    async def __aiter__(self) -> AsyncIterator[int]:
        while isinstance(self._next, int):
            yield self._next
            if self._ids.empty() and self.finished:
                break
            self._next = await self._ids.get()
        if isinstance(self._next, BaseException):
            raise self._next

    def cancel(self) -> None:
        """Gives the sequence up; vLLM is told by the end of the task that reads."""
        if self._reading is not None:
            self._reading.cancel()

    def _prompt(self) -> torch.Tensor:
        """Returns the embeddings [T, D] of the prompt and of the tokens that another node chose, on the host."""
        import torch

        part, request = self._engine.part, self._request
        states_TD = part.embedded_prompt(request.cut, dict(request.inputs))["hidden"]
        if request.resume_token_ids:
            states_TD = torch.cat([states_TD, part.embedded_tokens(request.resume_token_ids)])
        return states_TD.cpu().contiguous()

    async def _read(self, states_TD: torch.Tensor) -> None:
        left = self._request.max_new_tokens - len(self._request.resume_token_ids)
        loop = asyncio.get_running_loop()
        try:
            async for token_ids in self._engine.generate(states_TD, left):
                for token_id in token_ids:
                    left -= 1
                    self.finished = not left or token_id in self._engine.end_ids
                    self._ids.put_nowait(token_id)
                if self._first_s is not None:
                    self.times.tokens_s = loop.time() - self._first_s
            self._ids.put_nowait(None)
        except SplitvlmError as error:
            self._ids.put_nowait(error)


class VllmEngine:
    """Serves all sequences of one node. Starting it takes as long as vLLM takes to load, tens of seconds."""

    prefills_by_tile = False

    def __init__(self, part: CloudPart, kv_budget_bytes: int, lane: Lane, *, compiled: bool = True) -> None:
        """Takes the lane that runs what lies below the language model, in a thread of this process.

        Not `compiled`, it starts sooner and runs slower. Raises UsageError for models that vLLM cannot continue, and
        ConfigError where vLLM is not installed or does not start.
        """
        check_causal(part)
        self._folder = tempfile.TemporaryDirectory(prefix="splitvlm-vllm-")
        write_causal_folder(part, Path(self._folder.name))
        pack_linears(part.model, tied=False)  # from here on the part's weights are only computed with
        self.part = part
        self.end_ids = end_token_ids(part.model)
        self._lane = lane
        self._numbers = itertools.count()
        self._running = 0
        self._llm = _started(Path(self._folder.name), part, kv_budget_bytes, compiled=compiled)

    @property
    def jobs(self) -> int:
        """Returns how many pieces of work were begun."""
        return self._lane.jobs

    @property
    def in_work(self) -> bool:
        """Tells whether any work runs or waits, here or in vLLM."""
        return self._lane.in_work or self._running > 0

    def expected_queue_s(self, device: str) -> float:
        """Returns how long a further request would wait for the thread below the language model; vLLM batches what comes."""
        return self._lane.expected_queue_s(device)

    def memory_needed(self, request: SequenceRequest) -> MemoryNeed:
        """Counts the inputs and the embeddings of the longest prompt; keys and values lie in vLLM's own budget."""
        inputs = sum(tensor.nbytes for tensor in request.inputs.values())
        states = self.part.spec.max_context * self.part.spec.lm_hidden * self.part.model.dtype.itemsize
        return MemoryNeed(inputs + states, 0)

    def use(self, kv_budget_bytes: int) -> None:
        """Changes nothing: vLLM takes its memory for caches when it starts."""

    def start(self, request: SequenceRequest) -> VllmSequence:
        """Queues a sequence. Raises UsageError for cuts in the language model, and for what is not plainly greedy.

        vLLM draws by a generator of its own, so that no other node could go on with a sampled answer.
        """
        _check_told(request.sampling)
        if not request.sampling.is_greedy:
            raise UsageError(
                "This cloud node's engine vllm gives greedy answers only.",
                advice="Ask without temperature and repetition_penalty, or a cloud node with the engine torch.",
            )
        if request.cut.kind is CutKind.LM:
            raise UsageError(
                f"This cloud node's engine vllm does not serve the cut {request.cut}.",
                advice="It serves image, vision:k and tokens.",
            )
        return VllmSequence(self, request)

    async def in_turn(self, device: str, job: Callable[[], T]) -> tuple[T, JobTimes]:
        """Runs a session's work on tensors in the thread below the language model, by turns of devices."""
        return await self._lane.run(device, job)

    async def measure(self, step: Callable[[], T]) -> T:
        """Runs a step of a measurement in the thread below the language model."""
        return (await self._lane.run("", step))[0]

    def close(self) -> bool:
        """Ends vLLM's processes, then the thread; returns whether that has ended."""
        self._llm.shutdown()
        self._llm = None  # vLLM shuts down once more where it is freed, which fails when the interpreter ends
        gc.collect()
        self._folder.cleanup()
        return self._lane.close()

    async def generate(self, states_TD: torch.Tensor, max_tokens: int) -> AsyncIterator[list[int]]:
        """Yields the next token ids as vLLM gives them. A caller that stops early aborts the sequence there.

        Raises SplitvlmError where vLLM has ended.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        choice = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            stop_token_ids=sorted(self.end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        name = f"sequence-{next(self._numbers)}"
        self._running += 1
        try:
            async for output in self._llm.generate({"prompt_embeds": states_TD}, choice, name):
                yield list(output.outputs[0].token_ids)
        except (EngineDeadError, EngineGenerateError) as error:
            raise SplitvlmError("The cloud node's vLLM has ended; its log says why.") from error
        finally:
            self._running -= 1


def _check_told(sampling: Sampling) -> None:
    """Raises UsageError for a constraint: vLLM has its own grammars, which need not allow the tokens that other nodes' do."""
    if sampling.constraint is not None:
        raise UsageError(
            "This cloud node's engine vllm gives no structured answers.",
            advice="Ask without response_format and choices, or a cloud node with the engine torch.",
        )
    if sampling.top_logprobs is not None:
        raise UsageError(
            "This cloud node's engine vllm gives no log-probabilities.",
            advice="Ask without logprobs, or a cloud node with the engine torch.",
        )


def executor_for(num_cores: int) -> str | None:
    """Returns how vLLM is to run on so many cores: None is as it chooses itself.

    It then has its scheduler in one process and the model in another, which wait for each other in busy loops, and keeps a core
    for the scheduler: on two cores the model has one thread. In one process the model has them all.
    """
    return ONE_PROCESS if num_cores <= MOST_CORES_OF_ONE_PROCESS else None


@contextmanager
def _openmp_threads(num_threads: int) -> Iterator[None]:
    """Gives so many threads of OpenMP to processes that are started within: to vLLM's, where it binds none to cores."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _started(folder: Path, part: CloudPart, kv_budget_bytes: int, *, compiled: bool) -> Any:
    """Returns vLLM's engine. Raises ConfigError where vLLM is not installed or does not start."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing leaves this machine
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, kv_budget_bytes // GIB))
    import torch

    try:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise ConfigError(
            "engine is vllm, which is not installed here.",
            advice="Install it: make install-vllm, and run the node from there.",
        ) from error
    options = AsyncEngineArgs(
        model=str(folder),
        dtype=str(part.model.dtype).removeprefix("torch."),
        max_model_len=part.spec.max_context,
        enforce_eager=not compiled,
        max_num_seqs=MOST_SEQUENCES,
        distributed_executor_backend=executor_for(os.cpu_count() or 1),
        skip_tokenizer_init=True,
        enable_prompt_embeds=True,
        disable_log_stats=True,
    )
    try:
        with _openmp_threads(torch.get_num_threads()):
            return AsyncLLM.from_engine_args(options)
    except Exception as error:  # whatever vLLM raises while it starts
        raise ConfigError(f"vLLM does not start: {str(error).splitlines()[0]}", advice="See its log above.") from error
