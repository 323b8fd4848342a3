"""Holds what all sessions of one worker share: the model's part, its engine, the pictures' lane, and who may begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloud_node.engine.lane import Lane
from cloud_node.engine.prefix_cache import PrefixCache
from cloud_node.engine.protocol import Engine
from cloud_node.worker.admission import Admission
from splitvlm.codec.codec import Codec
from splitvlm.domain import Plan
from splitvlm.model.parts import CloudPart


@dataclass(frozen=True, slots=True)
class Runtime:
    """Holds one worker's parts. `pictures` has a thread of its own: opening a large picture takes seconds, and tokens go on."""

    part: CloudPart
    codec: Codec
    engine: Engine
    pictures: Lane
    admission: Admission
    prefix_cache: PrefixCache
    variant_codecs: Mapping[str, Codec] = field(default_factory=dict)  # of devices' forms beside the model's own

    def codec_of(self, plan: Plan) -> Codec:
        """Returns the codec of what crosses under a plan, whose variant the session's handshake agreed on."""
        return self.variant_codecs.get(plan.variant, self.codec)
