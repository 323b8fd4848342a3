"""The manifest of a variant: what it was made from, how, what it serves, and the hash of each of its files.

A variant's hash is SHA-256 of its manifest as canonical JSON. The manifest names every file by hash, so that the hash stands
for the whole variant; what was measured of it is not in it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from splitvlm.domain import FULL, parse_variant
from splitvlm.errors import UsageError
from splitvlm.files.text import read_json
from splitvlm.planning.fields import CutText

MANIFEST = "variant.json"
FORMAT = 1
_ADVICE = "`splitvlm variant make` writes it; copy a variant's folder whole, or make it again."


def _variant_name(text: str) -> str:
    try:
        parse_variant(text)
    except UsageError as error:
        raise ValueError(str(error)) from error
    if text == FULL:
        raise ValueError(f"`{FULL}` is the model's own part")
    return text


Name = Annotated[str, AfterValidator(_variant_name)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A file in the folder itself: a path would lead out of it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Parent(_Part):
    """Names the model that a variant was made from."""

    model: str
    weights_hash: Hash
    processor_hash: Hash


class StageFile(_Part):
    """Names an exported stage: pixel values in, visual tokens out. Beside an OpenVINO .xml lies its .bin."""

    file: FileName
    format: Literal["onnx", "openvino"]
    precision: str = Field(pattern=r"^[a-z0-9_-]{1,32}$")  # e.g. float32, bfloat16, int8


class WeightFiles(_Part):
    """Names weights of the vision tower and connector, and transformers' configuration that they fit."""

    file: FileName
    config: FileName


class Manifest(_Part):
    """Holds what variant.json holds."""

    format: Literal[1] = 1
    name: Name
    kind: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    parent: Parent
    cuts: list[CutText] = Field(min_length=1)  # `tokens`; `device` too where the parent's language model follows
    stage: StageFile | None = None
    weights: WeightFiles | None = None
    parameters: int = Field(ge=0)
    made: dict[str, Any]  # command, seed, data, samples, libraries
    files: dict[FileName, Hash]

    @model_validator(mode="after")
    def _holds_one_form(self) -> Manifest:
        named = [self.stage.file] if self.stage else []
        named += [self.weights.file, self.weights.config] if self.weights else []
        if (self.stage is None) == (self.weights is None):
            raise ValueError("a variant has either `stage` or `weights`")
        if missing := [name for name in named if name not in self.files]:
            raise ValueError(f"`files` lacks {' and '.join(missing)}")
        return self

    @property
    def hash(self) -> str:
        """Returns the variant's hash, in hex."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest in a variant's folder. Raises UsageError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} is no variant: there is no {MANIFEST} in it.", advice=_ADVICE)
    content = read_json(path, "manifest", advice=_ADVICE)
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"])) or "it"
        what = detail["msg"].removeprefix("Value error, ").rstrip(".")
        raise UsageError(f"{path} is no manifest of a variant: {key}: {what}.", advice=_ADVICE) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes variant.json. Raises OSError."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")
