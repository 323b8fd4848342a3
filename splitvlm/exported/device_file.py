"""The device file holds what a device needs beside an exported stage: facts, steps of pictures and prompts, tokenizer.

`device.json` and `tokenizer.json` lie in the variant's folder, whose manifest holds their hashes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from splitvlm.errors import UsageError
from splitvlm.files.text import read_json
from splitvlm.model.spec import ModelSpec, StageParameters

DEVICE_FILE = "device.json"
TOKENIZER_FILE = "tokenizer.json"
DEVICE_FILES = (DEVICE_FILE, TOKENIZER_FILE)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PictureSteps(_Part):
    """Says how a picture becomes tiles: resized to `longest_edge`, divided or squeezed into squares, scaled, normalised."""

    family: Literal["idefics3"]
    longest_edge: int = Field(ge=1, le=4096)
    tile_edge: int = Field(ge=1, le=4096)
    divided: bool  # into squares of `tile_edge`, the whole picture as the last one
    resample: int = Field(ge=0, le=5)  # Pillow's number of the filter
    scale: float = Field(gt=0)  # of a pixel's value
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class PromptRules(_Part):
    """Says how a conversation becomes text, and what stands in the text for an image."""

    template: str  # Jinja, as the model's publishers wrote it
    variables: dict[str, str | list[str]]  # that the template may read: the names of special tokens
    bos_token: str  # a prompt that begins with it gets no other one
    image_token: str
    around_image: str  # the token before each tile and after the last
    whole_image: str  # the tag of the whole picture
    tokens_a_tile: int = Field(ge=1)
    special_tokens: tuple[str, ...]  # that no text may hold


class DeviceFile(_Part):
    """Holds what device.json holds."""

    format: Literal[1] = 1
    spec: dict[str, Any]
    picture: PictureSteps
    prompt: PromptRules
    image_token_id: int = Field(ge=0)
    end_token_ids: tuple[int, ...]

    @classmethod
    def of(cls, spec: ModelSpec, **rest: Any) -> DeviceFile:
        """Returns the file's content for a model of these facts."""
        return cls(spec=asdict(spec), **rest)

    def model_spec(self) -> ModelSpec:
        """Returns the model's facts. Raises TypeError where they are not those that this version knows."""
        parameters = dict(self.spec["parameters"])
        for kind in ("vision", "lm"):
            parameters[kind] = tuple(parameters[kind])
        return ModelSpec(**self.spec | {"parameters": StageParameters(**parameters)})


def read_device_file(folder: Path) -> DeviceFile:
    """Returns what a variant's folder says to a device without torch. Raises UsageError."""
    path = folder / DEVICE_FILE
    advice = "Make the variant again with `splitvlm variant make`, where torch is installed, and copy its folder whole."
    if not path.is_file():
        raise UsageError(f"{folder} does not serve a device without torch: it has no {DEVICE_FILE}.", advice=advice)
    try:
        content = DeviceFile.model_validate(read_json(path, "device file", advice=advice))
        content.model_spec()
    except (ValidationError, TypeError, KeyError) as error:
        what = str(error).splitlines()[0]
        raise UsageError(f"{path} is not as this version of splitvlm writes it: {what}.", advice=advice) from error
    return content


def write_device_file(folder: Path, content: DeviceFile) -> None:
    """Writes device.json. Raises OSError."""
    (folder / DEVICE_FILE).write_text(content.model_dump_json(indent=2) + "\n", "utf-8")
