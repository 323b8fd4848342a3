"""What a fuzzer feeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`run` takes any bytes and returns, or lets an error of ours pass: anything else is a finding. `seeds` are good inputs."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
