"""The seam between a session and an engine: sequences go in, token ids come out.

A session knows frames, payloads and memory reservations; it decodes what a device sent into tensors. An engine knows the
model: it prefills, chooses tokens and keeps caches. Nothing of the wire, the codec or the keys crosses here, and nothing here
needs torch.

One answer is one sequence. It lives so:

    need = engine.memory_needed(request)           # booked by the session before anything is allocated
    sequence = engine.start(request)               # waits its turn; returns at once
    await sequence.read_tile(tile)                 # only where request.num_tiles > 1: the 2nd tile and those after it
    prefix = await sequence.prefill()              # the prompt has been read: the engine holds cache_bytes from now on
    sequence.feed(step)                            # only at lm:k: before each token but the first
    async for token_id in sequence: ...            # the tokens after request.resume_token_ids, the end token included
    sequence.cancel()                              # always at the end, however it came; does nothing after the last token

All methods are called from one event loop, and no method blocks it. Whatever a peer sent and an engine finds wrong is raised as
a SplitvlmError by the next awaited call of its sequence, and ends that sequence alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from splitvlm.domain import GREEDY, Cut, Sampling

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class CachedPrefix(Protocol):
    """Is what an engine keeps of a prompt: what its tokens left, only the engine that made it can read.

    Its memory is freed when the last reference to it goes: the prefix cache drops one, a sequence that goes on from it another.
    """

    @property
    def ids_P(self) -> torch.Tensor:
        """Returns the ids of its prompt, int64 [P]."""

    @property
    def num_bytes(self) -> int:
        """Returns the bytes that it holds."""

    def num_shared(self, ids_T: torch.Tensor) -> int:
        """Returns how many first tokens of another prompt it spares; 0 where none can be."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SequenceRequest:
    """Describes one answer to be generated.

    `inputs` are tensors on the host. At the cut `image` they are what the processor made of picture and prompt (`input_ids`,
    `pixel_values`, ...); at other cuts the decoded boundary (splitvlm.model.boundary has names, dtypes and shapes). With a
    `prefix` they are the whole prompt's `ids`, and what crosses of images that the prefix does not have; at `image` all as
    ever. Their shapes were checked; their values were not.
    """

    device: str  # the name of the device that asks: devices take turns, however many sequences each has
    cut: Cut
    inputs: Mapping[str, torch.Tensor]
    max_new_tokens: int  # at least 1; `resume_token_ids` count
    num_tiles: int = 1  # of the picture; `inputs` hold the first. Above 1 only where the engine prefills by tile
    prefix: CachedPrefix | None = None  # go on from it instead of reading the prompt's beginning again
    keep_prefix: bool = False  # a prompt that begins alike may follow: `prefill` returns what that needs
    sampling: Sampling = GREEDY  # how tokens are chosen; a draw depends on its seed and the token's position alone
    resume_token_ids: tuple[int, ...] = ()  # the answer's first, chosen by another node: fewer than max_new_tokens


class MemoryNeed(NamedTuple):
    """Holds the bytes that a sequence takes beside what its session holds already."""

    prefill_bytes: int  # of its inputs, until its prompt was read
    cache_bytes: int  # of keys and values at the most, until its end; 0 where the engine budgets them


class JobTimes(NamedTuple):
    """Holds the seconds that a job waited, and ran."""

    queue_s: float
    busy_s: float


@dataclass(slots=True)
class SequenceTimes:
    """Holds the seconds of one sequence so far. They add up to at most the time since it was started."""

    queue_s: float = 0.0  # it waited for others
    prefill_s: float = 0.0  # its prompt was read, tiles included, up to the first token's choice
    tokens_s: float = 0.0  # its other tokens were computed, alone or in a batch


class Sequence(Protocol):
    """Is one running answer. It is iterated once."""

    @property
    def times(self) -> SequenceTimes:
        """Returns the times that it has taken until now."""

    @property
    def finished(self) -> bool:
        """Tells whether its last token was chosen: the end token, or the one that reaches `max_new_tokens`."""

    async def read_tile(self, tile: Mapping[str, torch.Tensor]) -> None:
        """Reads the picture's next tile, and returns when the engine no longer needs its tensors.

        Raises ProtocolError for a tile that does not fit the prompt.
        """

    async def prefill(self) -> CachedPrefix | None:
        """Returns when the whole prompt was read and the first token is known. It is awaited once, before the iteration.

        The result is what `keep_prefix` asked for; None where it did not, or where nothing can go on from the cut (`lm:k`).
        Raises ProtocolError for inputs that are invalid, PrefixEvicted for a prompt that does not begin as `prefix` does.
        """

    def feed(self, step: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Gives the boundary of the last token, at `lm:k` only: each token but the first needs one, resumed tokens too.

        `step` decodes it: {`hidden`: [1, D]}. The engine calls it once, in the thread that runs the model. What it raises ends
        the sequence.
        """

    def __aiter__(self) -> AsyncIterator[int]:
        """Yields the token ids that follow `resume_token_ids`. An engine may be ahead of its reader."""

    def cancel(self) -> None:
        """Gives the sequence up: it takes no turn any more, and its memory is freed when what runs at this moment has ended.

        Whoever awaits something of the sequence cancels that first.
        """


class Engine(Protocol):
    """Runs sequences of many devices on one model. Devices get equal shares."""

    @property
    def prefills_by_tile(self) -> bool:
        """Tells whether sequences may be started with the first of several tiles; otherwise the session joins them before."""

    @property
    def jobs(self) -> int:
        """Returns how many pieces of work were begun: what did not change meanwhile was idle."""

    @property
    def in_work(self) -> bool:
        """Tells whether any work runs or waits."""

    def expected_queue_s(self, device: str) -> float:
        """Returns how long a further request of this device would wait, in seconds."""

    def memory_needed(self, request: SequenceRequest) -> MemoryNeed:
        """Returns what the request will take, from its shapes alone: nothing is allocated and nothing runs."""

    def use(self, kv_budget_bytes: int) -> None:
        """Takes another bound on the memory of keys and values, for sequences that start from now on."""

    def start(self, request: SequenceRequest) -> Sequence:
        """Queues a sequence. Raises CapacityError, with a time to ask again, where a budget of the engine's own is full."""

    async def in_turn(self, device: str, job: Callable[[], T]) -> tuple[T, JobTimes]:
        """Runs a session's own work on tensors (decoding features) so that it takes turns with the sequences.

        Raises what the job raises. A caller that is cancelled while the job waits takes it out of the queue.
        """

    async def measure(self, step: Callable[[], T]) -> T:
        """Runs a step of a measurement with nothing else beside it in the engine."""

    def close(self) -> bool:
        """Ends the engine, and waits a little for what runs; returns whether it has ended."""
