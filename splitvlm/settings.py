"""What all configuration files share: the base of their models, the sections that several nodes have, and their loading.

A configuration is checked once, here, when it enters. An error names `section.key`, what it got and what it wanted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from splitvlm.errors import ConfigError, UsageError

Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-\[\]:]+:[0-9]{1,5}$")]
"""`host:port`; port 0 lets the system choose, and the ready line says what it chose."""

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A DNS label: it stands in the node's certificate."""


def host_and_port(address: str) -> tuple[str, int]:
    """`127.0.0.1:7442` or `[::1]:7442` in its two parts. Raises UsageError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"'{address}' is not an address.", advice="An address is host:port, e.g. 127.0.0.1:7442.")
    return host.strip("[]"), int(port)


class Section(BaseModel):
    """A part of a configuration file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Security(Section):
    """Where the node's own certificate and key, and the authority that it trusts, are found."""

    keys: Path | None = Field(None, description="folder of this node made by `splitvlm keys issue`")
    plaintext: bool = Field(False, description="no TLS; only for loopback addresses, and only when asked for")


class Logging(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    json_lines: bool = Field(True, description="one JSON object a line; false writes plain text for people")


class ModelChoice(Section):
    """Which model, and how it computes. Exactness is promised for equal dtype and kind of hardware on both sides."""

    name: str = Field("scenes", description="Hugging Face id or folder, `scenes`, or `shape:<id>`")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:[0-9]+)?)$")
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = Field(
        None, ge=1, le=256, description="torch threads of this process; null leaves the default"
    )


S = TypeVar("S", bound=Section)


def load(path: Path, kind: type[S]) -> S:
    """Read a YAML (or JSON) file into a settings model. Relative paths in it are relative to the file. Raises ConfigError."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file.", advice="A configuration is YAML in UTF-8.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {_one_line(error)}.") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold keys and values, but holds a {type(raw).__name__}.")
    return parse(raw, kind, source=str(path), base=path.parent)


def parse(raw: dict[str, object], kind: type[S], *, source: str, base: Path | None = None) -> S:
    """Validate a mapping. `source` is named in errors; `base` anchors relative paths."""
    try:
        settings = kind.model_validate(raw)
    except ValidationError as error:
        lines = "; ".join(_explain(detail) for detail in error.errors())
        raise ConfigError(f"{source}: {lines}.", advice=f"Known keys: {_known(kind)}.") from error
    return _anchored(settings, base) if base is not None else settings


def schema(kind: type[Section]) -> str:
    """The JSON schema of a configuration, for editors."""
    return json.dumps(kind.model_json_schema(), indent=2)


def _explain(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "(top)"
    if detail["type"] == "extra_forbidden":
        return f"{key} is not a known key"
    if detail["type"] == "missing":
        return f"{key} is missing"
    return f"{key} is {detail['input']!r}, but {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _known(kind: type[Section]) -> str:
    return ", ".join(sorted(kind.model_fields))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _anchored(settings: S, base: Path) -> S:
    changes: dict[str, object] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Path) and not value.is_absolute():
            changes[name] = base / value
        elif isinstance(value, Section):
            changes[name] = _anchored(value, base)
    return settings.model_copy(update=changes)
