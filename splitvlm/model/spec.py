"""A spec is what is known of a model before any weight is loaded: its cuts, its sizes, the memory that each part will take.

Bytes are of weights, caches and a bound on activations. What the process takes by itself (the interpreter, torch and
transformers; some 400 MiB) is not in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, CutKind, every_cut
from splitvlm.errors import UsageError

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
TOWER_KINDS = ("patches", "vision", "connector")
"""Kinds of stages that a variant has in another form."""


@dataclass(frozen=True)
class StageParameters:
    """Holds the numbers of parameters, stage by stage. `head` is 0 where it is the embedding table itself (`tied`)."""

    patches: int
    vision: tuple[int, ...]
    connector: int
    embed: int
    lm: tuple[int, ...]
    norm: int
    head: int
    tied: bool

    @property
    def total(self) -> int:
        """Returns the number of parameters of the whole model."""
        ends = self.patches + self.connector + self.embed + self.norm + self.head
        return ends + sum(self.vision) + sum(self.lm)


@dataclass(frozen=True)
class ModelSpec:
    """Holds a model's facts. `weights_hash` and `processor_hash` are hex SHA-256; two nodes compare them."""

    name: str
    family: str
    vision_layers: int
    lm_layers: int
    vision_hidden: int
    vision_inner: int
    vision_patches: int  # of one tile
    lm_hidden: int
    lm_inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    parameters: StageParameters
    weights_hash: str
    processor_hash: str
    random_weights: bool = False

    def cuts(self) -> tuple[Cut, ...]:
        """Returns all cuts of the model, from shallow to deep."""
        return every_cut(self.vision_layers, self.lm_layers)

    def check(self, cut: Cut) -> None:
        """Raises UsageError for a cut that the model lacks."""
        kinds = {
            CutKind.VISION: ("vision tower", self.vision_layers),
            CutKind.LM: ("language model", self.lm_layers),
        }
        if cut.kind in kinds and not 1 <= cut.layers <= kinds[cut.kind][1]:
            part, layers = kinds[cut.kind]
            raise UsageError(
                f"{self.name} has no cut {cut}; its {part} has {layers} layers.",
                advice=f"Use {cut.kind}:1 to {cut.kind}:{layers}.",
            )

    def device_parameters(self, cut: Cut) -> int:
        """Returns how many parameters the device holds to serve `cut` (and every shallower one)."""
        return sum(self._count(stage) for stage in device_stages(self, cut))

    def cloud_parameters(self, cut: Cut) -> int:
        """Returns how many parameters the cloud holds to serve `cut` (and every deeper one)."""
        return sum(self._count(stage) for stage in cloud_stages(self, cut))

    def tower_bytes(self, cut: Cut, dtype: str = "float32") -> int:
        """Returns the bytes of the model's own vision tower and connector, as far as the device holds them at `cut`."""
        stages = (stage for stage in device_stages(self, cut) if stage[0] in TOWER_KINDS)
        return sum(map(self._count, stages)) * DTYPE_BYTES[dtype]

    def language_bytes(self, cut: Cut, dtype: str = "float32") -> int:
        """Returns the bytes of the language model's layers, as far as the device holds them at `cut`."""
        return self.device_parameters(cut) * DTYPE_BYTES[dtype] - self.tower_bytes(cut, dtype)

    def device_memory_bytes(
        self, cut: Cut, dtype: str = "float32", context_tokens: int = 1024, tower_bytes: int | None = None
    ) -> int:
        """Returns the bytes of the weights of the lower part, one request's cache, and a bound on its activations.

        `tower_bytes` are those of another form of the tower and connector.
        """
        self.check(cut)
        layers = {CutKind.LM: cut.layers, CutKind.DEVICE: self.lm_layers}.get(cut.kind, 0)
        size = DTYPE_BYTES[dtype]
        activations = 0 if cut == IMAGE else self._activations(layers > 0, cut == DEVICE, size, context_tokens)
        tower = self.tower_bytes(cut, dtype) if tower_bytes is None else tower_bytes
        return self.language_bytes(cut, dtype) + tower + self.cache_bytes(layers, dtype, context_tokens) + activations

    def cloud_memory_bytes(
        self, cuts: Sequence[Cut], dtype: str = "float32", context_tokens: int = 1024, requests: int = 1
    ) -> int:
        """Returns the bytes of the shallowest cut's weights, so many requests' caches, and a bound on activations."""
        served = [cut for cut in cuts if cut != DEVICE]
        if not served:
            return 0
        shallowest = min(served, key=lambda cut: cut.depth)
        size = DTYPE_BYTES[dtype]
        caches = requests * self.cache_bytes(self.lm_layers, dtype, context_tokens)
        activations = self._activations(True, True, size, context_tokens)
        return self.cloud_parameters(shallowest) * size + caches + activations

    def cache_bytes(self, layers: int, dtype: str, context_tokens: int) -> int:
        """Returns the bytes of keys and values of `layers` layers for one request."""
        return 2 * layers * self.kv_heads * self.head_dim * context_tokens * DTYPE_BYTES[dtype]

    def _activations(self, language: bool, head: bool, size: int, context_tokens: int) -> int:
        """States, one residual, one normed copy, queries, keys, values and the widest inner product of one layer."""
        vision = self.vision_patches * (6 * self.vision_hidden + 2 * self.vision_inner)
        lm = context_tokens * (6 * self.lm_hidden + 3 * self.lm_inner) if language else 0
        logits = 3 * self.vocab_size * 4 if head else 0  # float32 scores, and what the rules of choice copy
        return max(vision, lm) * size + logits

    def _count(self, stage: tuple[str, int]) -> int:
        kind, index = stage
        counts = getattr(self.parameters, kind)
        if kind == "head" and self.parameters.tied:
            return 0  # counted as the embedding table, which such a head needs
        return int(counts[index]) if isinstance(counts, tuple) else int(counts)


def device_stages(spec: ModelSpec, cut: Cut) -> frozenset[tuple[str, int]]:
    """Returns the stages, as (kind, index), that the device runs at `cut`."""
    stages: list[tuple[str, int]] = []
    vision = cut.layers if cut.kind is CutKind.VISION else spec.vision_layers
    if cut != IMAGE:
        stages += [("patches", 0), *(("vision", i) for i in range(vision))]
    if cut.depth >= TOKENS.depth:
        stages += [("connector", 0)]
    if cut.kind in (CutKind.LM, CutKind.DEVICE):
        layers = cut.layers if cut.kind is CutKind.LM else spec.lm_layers
        stages += [("embed", 0), *(("lm", i) for i in range(layers))]
    if cut == DEVICE:
        stages += [("norm", 0), ("head", 0)]
    return frozenset(stages)


def cloud_stages(spec: ModelSpec, cut: Cut) -> frozenset[tuple[str, int]]:
    """Returns the stages that the cloud runs at `cut`. At lm:k the table of embeddings is needed only as a tied head."""
    everything = device_stages(spec, DEVICE)
    stages = everything - device_stages(spec, cut)
    if cut.kind is CutKind.LM and spec.parameters.tied:
        stages |= {("embed", 0)}
    return stages
