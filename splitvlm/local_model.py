"""A divided model in one process: lower part, encoder, decoder and upper part, without nodes, sockets and keys.

    model = LocalModel.load("scenes", [TOKENS])
    answer = model.answer(Prompt.about(picture, "How many cars are there?"), Plan.parse("tokens/klt3"))
    answer.text, answer.payload_bytes, answer.wire_bytes

    model = LocalModel.load("scenes", [TOKENS], variants=[variant])  # and plans such as tokens/klt3@int8

Between the halves stand bytes alone, as between two processes: the upper half sees what the lower half encoded, and at the cut
`image` the question. Evaluation, profiling, the measurement of leaks and notebooks go through here; nodes do this in turns with
other requests (edge_node, cloud_node). A picture in tiles is encoded in one piece here, where nodes send it tile by tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from splitvlm.bundle import Bundle, open_bundle
from splitvlm.codec import decode_picture, encode_picture
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, FULL, GREEDY, IMAGE, Conversation, Cut, CutKind, Plan, Sampling
from splitvlm.errors import UsageError
from splitvlm.model.boundary import Boundary, to_arrays, to_tensors
from splitvlm.model.loading import load_cloud
from splitvlm.model.parts import CloudPart, DevicePart, LowerRun
from splitvlm.model.prompt import Prompt
from splitvlm.model.upper_run import UpperRun
from splitvlm.rpc.request_sizes import step_bytes, upload_bytes
from splitvlm.settings import ModelChoice
from splitvlm.variants.device_forms import DeviceForm, load_forms
from splitvlm.variants.folder import Variant

MAX_NEW_TOKENS = 64
MAX_PICTURE_PIXELS = 64 * 2**20
Content = Boundary | Image.Image
"""What crosses a cut: its tensors, or at `image` the picture in the model's input size."""


class LocalBoundary:
    """Holds one request below a cut: what crosses, encoded at any level. Tensors are computed once, when it is made."""

    def __init__(self, part: DevicePart, codec: Codec, prompt: Prompt, cut: Cut) -> None:
        """Runs the lower part; at `image` nothing runs yet. Raises UsageError."""
        self.cut = cut
        self._part, self._codec, self._prompt = part, codec, prompt
        self._run: LowerRun | None = None if cut == IMAGE else part.lower(prompt, cut)

    @property
    def tensors(self) -> Boundary:
        """Returns the tensors that cross after the prefill, at every cut but `image`."""
        assert self._run is not None, "at the cut image a picture crosses"
        return self._run.boundary

    def encode(self, level: str) -> bytes:
        """Returns the payload of a prompt that has no more than one image. Raises UsageError."""
        segments = self.segments(level)
        assert len(segments) <= 1, "several images are several segments"
        return segments[0] if segments else b""

    def segments(self, level: str) -> list[bytes]:
        """Returns the payload's segments: one, or at `image` one an image, resizing included. Raises UsageError."""
        if self._run is None:
            return [encode_picture(self._part.picture(image), level) for image in self._prompt.images]
        return [self._codec.encode(self.cut, to_arrays(self._run.boundary), level)]

    def step(self, token_id: int) -> Boundary:
        """Runs the lower part for the answer's next token (cuts `lm:k`); returns what crosses of it."""
        assert self._run is not None, "a picture has no next token"
        return self._run.step(token_id)

    def encode_step(self, token_id: int, level: str) -> bytes:
        """Returns what crosses of the answer's next token as bytes. Raises UsageError."""
        return self._codec.encode(self.cut, to_arrays(self.step(token_id)), level)


def decode(codec: Codec, cut: Cut, payload: bytes) -> Content:
    """Returns what arrives above a cut from the bytes that `LocalBoundary.encode` gave. Raises ProtocolError."""
    if cut == IMAGE:
        return decode_picture(payload, max_pixels=MAX_PICTURE_PIXELS)
    return to_tensors(codec.decode(cut, payload))


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """Holds an answer and what it would have sent. Bytes are 0 at the cut `device`."""

    token_ids: tuple[int, ...]  # with the end token, where it was reached
    text: str
    payload_bytes: int  # before sealing, without the steps
    wire_bytes: int  # of all sealed messages on an open session, steps included (splitvlm.rpc.request_sizes)


class LocalModel:
    """Runs both halves of one model, with its codec. Requests run one after another."""

    def __init__(self, forms: Mapping[str, DeviceForm], cloud: CloudPart | None) -> None:
        """Takes the forms of the device's part by variant; `cloud` may be None where only the cut `device` is asked for."""
        self._forms = forms
        self.cloud = cloud
        self.device, self.codec = forms[FULL]

    @classmethod
    def load(
        cls,
        name: str,
        cuts: Sequence[Cut],
        *,
        bundle: Bundle | None = None,
        variants: Sequence[Variant] = (),
        device: str = "cpu",
        dtype: Literal["float32", "bfloat16"] = "float32",
        threads: int | None = None,
    ) -> LocalModel:
        """Loads the weights that `cuts` need on both sides, and variants for those cuts that they serve. Raises UsageError.

        `bundle` is by default the model's own. A variant's tower is loaded at its first use.
        """
        choice = ModelChoice(name=name, device=device, dtype=dtype, threads=threads)
        served = {FULL: cuts} | {each.name: [cut for cut in cuts if cut in each.cuts] for each in variants}
        forms = load_forms(choice, served, bundle or open_bundle(name), variants)
        remote = [cut for cut in cuts if cut != DEVICE]
        upper = load_cloud(name, remote, device=device, dtype=dtype, threads=threads) if remote else None
        return cls(forms, upper)

    def form(self, variant: str) -> DeviceForm:
        """Returns the device's part of a variant, and its codec. Raises UsageError."""
        if variant not in self._forms:
            raise UsageError(f"There is no variant {variant} here.", advice=f"There are {', '.join(self._forms)}.")
        return self._forms[variant]

    def boundary(self, prompt: Prompt, cut: Cut, variant: str = FULL) -> LocalBoundary:
        """Runs the lower part of a request. Raises UsageError."""
        return LocalBoundary(*self.form(variant), prompt, cut)

    def answer(
        self,
        prompt: Prompt,
        plan: Plan,
        max_new_tokens: int = MAX_NEW_TOKENS,
        sampling: Sampling = GREEDY,
    ) -> LocalAnswer:
        """Returns the answer under a plan, by default the greedy one. Raises UsageError, ProtocolError."""
        if plan.cut == DEVICE:
            part = self.form(plan.variant).part
            token_ids = list(part.generate(prompt, max_new_tokens, sampling=sampling))
            return LocalAnswer(tuple(token_ids), self._text(token_ids), 0, 0)
        lower = self.boundary(prompt, plan.cut, plan.variant)
        segments = lower.segments(plan.level)
        run = self.start(plan.cut, segments, prompt.conversation, max_new_tokens, sampling, variant=plan.variant)
        wire_bytes = upload_bytes(list(map(len, segments)), prompt.conversation if plan.cut == IMAGE else None)
        token_ids = [run.first()]
        while not run.finished:
            arrived = None
            if plan.cut.kind is CutKind.LM:
                coded = lower.encode_step(token_ids[-1], plan.level)
                wire_bytes += step_bytes(len(coded))
                arrived = to_tensors(self.form(plan.variant).codec.decode(plan.cut, coded))
            token_ids.append(run.next(arrived))
        return LocalAnswer(tuple(token_ids), self._text(token_ids), sum(map(len, segments)), wire_bytes)

    def start(
        self,
        cut: Cut,
        segments: Sequence[bytes],
        conversation: Conversation,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        *,
        variant: str = FULL,
    ) -> UpperRun:
        """Decodes a payload; returns the upper part's run of it, before its prefill. Raises UsageError, ProtocolError.

        `conversation` counts at the cut `image` only: elsewhere the prompt is in the payload.
        """
        assert self.cloud is not None, "it was loaded for the cut device alone"
        if cut == IMAGE:
            images = tuple(decode_picture(segment, max_pixels=MAX_PICTURE_PIXELS) for segment in segments)
            return self.cloud.upper_from_prompt(Prompt(conversation, images), max_new_tokens, sampling)
        [payload] = segments
        content = to_tensors(self.form(variant).codec.decode(cut, payload))
        return self.cloud.upper(cut, content, max_new_tokens, sampling)

    def _text(self, token_ids: Sequence[int]) -> str:
        return str(self.device.tokenizer.decode(token_ids, skip_special_tokens=True)).strip()
