"""Both halves of a model in this process, asked as an edge node is: `with splitvlm.local("scenes") as vlm`.

What crosses between the halves is coded as between nodes; there are no sockets and no keys. It is for notebooks and tests, and
needs the extra `model`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, Unpack

from splitvlm.client.connection import Images, Wrong
from splitvlm.client.messages import ChatMessage, asked, chat
from splitvlm.client.options import Options
from splitvlm.client.report import Report
from splitvlm.domain import DEVICE, GREEDY, Conversation, Plan, Sampling
from splitvlm.local_model import MAX_NEW_TOKENS, LocalModel
from splitvlm.model.pictures import read_picture
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import end_token_ids

PLAN = "tokens/lossless"
SEED_BITS = 32


class LocalAnswer:
    """Gives an answer that was computed in this process: its text in one piece, then the report."""

    def __init__(self, text: str, plan: str, report: Report) -> None:
        self.text = text
        self.plan = plan
        self.report = report

    def __iter__(self) -> Iterator[str]:
        yield self.text

    def read(self) -> str:
        """Returns the whole text."""
        return self.text

    def close(self) -> None:
        """Does nothing: the answer is complete."""


class LocalConnection:
    """Asks a model in this process, one question after another, at one cut. Its levels and variants may change by question."""

    def __init__(self, model: str, plan: Plan) -> None:
        """Loads the weights that the plan's cut needs on both sides. Raises UsageError."""
        self._plan = plan
        self._model = LocalModel.load(model, [plan.cut])
        self._end_ids = end_token_ids(self._model.device.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Wrong, error: BaseException | None, trace: TracebackType | None) -> None:
        pass  # a notebook may go on with it

    def ask(self, images: Images, question: str, **options: Unpack[Options]) -> LocalAnswer:
        """Asks one question about an image, or about several in their order. Raises UsageError."""
        return self._answer(*asked(images, question), options)

    def chat(self, messages: Iterable[ChatMessage], **options: Unpack[Options]) -> LocalAnswer:
        """Asks for the answer to a conversation, whose last message is the user's. Raises UsageError."""
        return self._answer(*chat(messages), options)

    def _answer(self, conversation: Conversation, files: Sequence[bytes], options: Options) -> LocalAnswer:
        started_s = time.perf_counter()
        plan = Plan.parse(options["plan"]) if options.get("plan") else self._plan
        prompt = Prompt(conversation, tuple(map(read_picture, files)))
        sampling = _sampling(options)
        answer = self._model.answer(prompt, plan, options.get("max_new_tokens") or MAX_NEW_TOKENS, sampling)
        text, stopped = _cut(answer.text, options.get("stop", ()))
        ended = stopped or answer.token_ids[-1] in self._end_ids
        report = Report(
            plan=str(plan),
            answered_by="device" if plan.cut == DEVICE else "cloud",
            finish_reason="stop" if ended else "length",
            bytes_sent=answer.wire_bytes,
            bytes_received=0,
            prompt_tokens=0,
            image_tokens=0,
            cached_tokens=0,
            token_ids=answer.token_ids,
            first_token_s=0.0,
            total_s=time.perf_counter() - started_s,
            stages_s={},
            seed=sampling.seed if sampling.draws else None,
        )
        return LocalAnswer(text, str(plan), report)


def local(model: str = "scenes", *, plan: str = PLAN) -> LocalConnection:
    """Returns both halves of a model, loaded for the plan's cut. Raises UsageError."""
    return LocalConnection(model, Plan.parse(plan))


def _sampling(options: Options) -> Sampling:
    seed = options.get("seed")
    temperature = options.get("temperature", 0.0)
    if seed is None:
        seed = secrets.randbits(SEED_BITS) if temperature > 0 else 0
    return Sampling(
        temperature=temperature,
        top_p=options.get("top_p", GREEDY.top_p),
        top_k=options.get("top_k", GREEDY.top_k),
        repetition_penalty=options.get("repetition_penalty", GREEDY.repetition_penalty),
        seed=seed,
    )


def _cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Returns the text before the stop string that is complete first, and whether there is one."""
    ends = [(index + len(each), index) for each in stop if (index := text.find(each)) >= 0]
    return (text[: min(ends)[1]], True) if ends else (text, False)
