"""Holds what all configuration files share: the base of their models, the sections that several nodes have, and their loading.

A configuration is checked once, here, when it enters. An error names `section.key`, what it got and what it wanted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from splitvlm.errors import ConfigError, UsageError
from splitvlm.files.paths import looks_like_path, path_of
from splitvlm.files.text import parse_yaml, read_text
from splitvlm.host_port import host_and_port

MOST_SHOWN = 80  # characters of a wrong value
_BASE = "base"  # the validation context's folder that relative paths count from


def _with_a_port(address: str) -> str:
    try:
        host_and_port(address)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return address


Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-\[\]:]+:[0-9]{1,5}$"), AfterValidator(_with_a_port)]
"""`host:port`; port 0 lets the system choose, and the ready line says what it chose."""

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A DNS label: it stands in the node's certificate."""


def base_of(info: ValidationInfo) -> Path:
    """Returns the folder that relative paths of a configuration count from: the one that its file is in."""
    return Path((info.context or {}).get(_BASE, "."))


class Section(BaseModel):
    """Is a part of a configuration file: frozen, and unknown keys are refused. Paths in it are whole (splitvlm.files.paths)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _whole_paths(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Path):
            return _path(str(value), info)
        return (
            [_path(str(item), info) if isinstance(item, Path) else item for item in value]
            if isinstance(value, list)
            else value
        )


def _path(text: str, info: ValidationInfo) -> Path:
    try:
        return path_of(text, base_of(info))
    except UsageError as error:
        raise ValueError(str(error)) from error


def _model_name(name: str, info: ValidationInfo) -> str:
    """Makes a path's name whole; that of the Hub, `scenes` and `shape:` stay."""
    if name == "scenes" or name.startswith("shape:"):
        return name
    path = _path(name, info)
    base, plus, adapter = name.rpartition("+")
    if plus and not path.is_dir() and _path(adapter, info).is_dir():
        return f"{_model_name(base, info)}+{_path(adapter, info).absolute()}"
    if looks_like_path(name) or path.is_dir():
        return str(path.absolute())
    if Path(name).is_dir():
        raise ValueError(f"there is no folder {path}: relative paths count from the configuration file's folder")
    return name


ModelName = Annotated[str, StringConstraints(min_length=1), AfterValidator(_model_name)]
"""A Hugging Face id, `scenes`, `shape:<id>`, or a folder: with `./`, `../`, `/`, `~` or `$` in front, or one that exists.

MODEL+FOLDER names an adapter's folder beside it.
"""


class Security(Section):
    """Says where the node's own certificate and key, and the authority that it trusts, are found."""

    keys: Path | None = Field(None, description="folder of this node made by `splitvlm keys issue`")
    plaintext: bool = Field(False, description="no TLS; only for loopback addresses, and only when asked for")
    require_post_quantum: bool = Field(
        True,
        description="refuse sessions whose keys come from X25519 alone, without ML-KEM-768",
    )


class Logging(Section):
    """Says what a node logs, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="of splitvlm's own; libraries log warnings and errors only"
    )
    json_lines: bool = Field(True, description="one JSON object a line; false writes plain text for people")


class ModelChoice(Section):
    """Says which model runs, and how it computes. Exactness is promised for equal dtype and kind of hardware on both sides."""

    name: ModelName = Field("scenes", description="Hugging Face id or folder, `scenes`, or `shape:<id>`")
    bundle: Path | None = Field(
        None,
        description="folder of what was learned about the model (docs/reference/bundles.md); null is the user's own",
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:[0-9]+)?)$", description="`cpu`, `cuda` or `cuda:N`")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="precision; the same on both sides of a session. `auto` is the faster one here, measured at start",
    )
    threads: int | None = Field(
        None, ge=1, le=256, description="torch threads of this process; null leaves the default"
    )


S = TypeVar("S", bound=Section)


def load(path: Path, kind: type[S]) -> S:
    """Reads a YAML (or JSON) file into a settings model. Relative paths in it are relative to the file. Raises ConfigError."""
    advice = "A configuration is YAML in UTF-8."
    text = read_text(path, "configuration", error=ConfigError, advice=advice)
    raw = parse_yaml(text, str(path), error=ConfigError)
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold keys and values, but holds a {type(raw).__name__}.")
    return parse(raw, kind, source=str(path), base=path.parent)


def parse(raw: dict[str, object], kind: type[S], *, source: str, base: Path = Path()) -> S:
    """Validates a mapping. `source` is named in errors; relative paths count from `base`. Raises ConfigError."""
    try:
        return kind.model_validate(raw, context={_BASE: base})
    except ValidationError as error:
        lines = "; ".join(_explain(detail) for detail in error.errors())
        location = error.errors()[0]["loc"][:-1]
        raise ConfigError(f"{source}: {lines}.", advice=f"Known keys{_known(kind, location)}.") from error


def schema(kind: type[Section]) -> str:
    """Returns the JSON schema of a configuration, for editors."""
    return json.dumps(kind.model_json_schema(), indent=2)


_INSTEAD = {
    "planning.privacy_floor": " any more: an edge node has `privacy` (`mode: device_only`, or `mode: max_leak` "
    "with `max_leak`), a scenario `planning.max_leak`",
}
"""What took the place of a key that is gone."""


def _explain(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "(top)"
    if detail["type"] == "extra_forbidden":
        return f"{key} is not a known key{_INSTEAD.get(key, '')}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    message = detail["msg"].removeprefix("Value error, ").rstrip(".")
    value = repr(detail["input"])
    shown = value if len(value) <= MOST_SHOWN else f"{value[:MOST_SHOWN]}..."
    return f"{key} is {shown}, but {message[0].lower()}{message[1:]}"


def _known(kind: type[Section], location: Sequence[int | str]) -> str:
    """Returns `: a, b` of the top, or ` of planning: a, b` of the section at that location."""
    section, path = kind, list[str]()
    for key in location:
        field = section.model_fields.get(str(key))
        inner = None if field is None else _section_in(field.annotation)
        if inner is not None:
            section = inner
            path.append(str(key))
    of = f" of {'.'.join(path)}" if path else ""
    return f"{of}: {', '.join(sorted(section.model_fields))}"


def _section_in(annotation: Any) -> type[Section] | None:
    """Returns the section that a key's type is, or is a list or an option of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((section for inner in get_args(annotation) if (section := _section_in(inner))), None)
