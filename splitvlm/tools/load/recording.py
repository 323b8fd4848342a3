"""Records what simulated devices send: payloads of drawn scenes, made once by the device's part and sent again and again.

Only the cloud is under load then. The answers are real; that a device made the payload just before is what is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edge_node.cloud.cloud_request import AnswerSpec, CloudRequest, Vocabulary
from edge_node.cloud.payload import Payload
from edge_node.cloud.segments import Segments
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, IMAGE, Conversation, CutKind, Plan, Sampling
from splitvlm.errors import UsageError
from splitvlm.local_model import LocalBoundary
from splitvlm.model.loading import load_device
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import end_token_ids
from splitvlm.model.spec import ModelSpec
from splitvlm.scenes.samples import samples


@dataclass(slots=True)
class RecordedRequest:
    """Holds one question's payload under a plan; at `lm:k` also the steps of its answer, recorded while it was first given."""

    plan: Plan
    data: bytes
    conversation: Conversation | None  # cut `image` only
    vocabulary: Vocabulary
    sampling: Sampling  # the same each time, so that an answer's recorded steps are those of its tokens
    boundary: LocalBoundary | None = None  # at `lm:k`, until the steps are recorded
    steps: list[bytes] = field(default_factory=list)

    def request(self, max_new_tokens: int) -> CloudRequest:
        """Returns what one device sends. Nothing in it lets the cloud find the picture in its prefix cache."""
        step = self._step if self.plan.cut.kind is CutKind.LM else None
        payload = Payload(self.plan, Segments.of(self.data), self.conversation, step)
        return CloudRequest(payload, AnswerSpec(max_new_tokens, self.vocabulary, sampling=self.sampling))

    async def _step(self, index: int, token_id: int) -> bytes:
        """Returns the coded boundary of the answer's token at `index`, recorded or made now."""
        if index == len(self.steps) and self.boundary is not None:
            self.steps.append(self.boundary.encode_step(token_id, self.plan.level))
        return self.steps[
            min(index, len(self.steps) - 1)
        ]  # a batched answer may end a little later than the recorded one

    def recorded(self) -> None:
        """Ends the recording: what made the steps goes."""
        self.boundary = None


def check_plan(plan: Plan, spec: ModelSpec, codec: Codec) -> None:
    """Raises UsageError for a plan under which nothing crosses, or that the model or its codec lacks."""
    if plan.cut == DEVICE:
        raise UsageError("At the cut device nothing is sent.", advice="Choose image, vision:k, tokens or lm:k.")
    spec.check(plan.cut)
    codec.check(plan.cut, plan.level)


def record(
    model: str, plan: Plan, count: int, codec: Codec, sampling: Sampling, *, seed: int, threads: int | None
) -> list[RecordedRequest]:
    """Makes `count` payloads on this machine, under a plan that was checked; payload i is asked with the seed `seed` + i."""
    part = load_device(model, [plan.cut], threads=threads)
    vocabulary = Vocabulary(part.spec.vocab_size, end_token_ids(part.model))
    recorded = []
    for index, (image, question) in enumerate(samples(count, model, seed=seed)):
        boundary = LocalBoundary(part, codec, Prompt.about(image, question), plan.cut)
        recorded.append(_recorded(plan, boundary, question, vocabulary, replace(sampling, seed=seed + index)))
    return recorded


def _recorded(
    plan: Plan, boundary: LocalBoundary, question: str, vocabulary: Vocabulary, sampling: Sampling
) -> RecordedRequest:
    return RecordedRequest(
        plan,
        boundary.encode(plan.level),
        Conversation.about(question) if plan.cut == IMAGE else None,
        vocabulary,
        sampling,
        boundary if plan.cut.kind is CutKind.LM else None,
    )
