"""Profile files: both sides of one model as JSON, for plans and simulations without the nodes.

`splitvlm profile` measures and writes, `splitvlm plan` and `splitvlm simulate` read. The file is the message `Profiles` of
proto/splitvlm/wire/v1/profiles.proto as JSON: its rows are those that nodes send to the orchestrator.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast, get_args

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from splitvlm.errors import UsageError
from splitvlm.files.text import read_json
from splitvlm.planning.profiles import AccuracySource, Profiles
from splitvlm.rpc.profiles import (
    accuracy_from_wire,
    accuracy_to_wire,
    cloud_profile_to_wire,
    cloud_profiles_from_wire,
    device_profile_to_wire,
    device_profiles_from_wire,
    sizes_from_wire,
    sizes_to_wire,
)
from splitvlm.wire.v1 import profiles_pb2 as pb

FORMAT = 2
MAX_FILE_BYTES = 16 * 1024 * 1024
DIGITS = 5  # that are written of a measured time
_ADVICE = "`splitvlm profile` writes such a file."


def write(path: Path, profiles: Profiles) -> None:
    """Writes one JSON object, a row a line, so that a difference can be read."""
    content = _as_json(profiles_to_message(profiles))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_shown(content) + "\n", "utf-8")


def read(path: Path) -> Profiles:
    """Reads a profile file. Raises UsageError naming the file and what is wrong in it."""
    raw = read_json(path, "profiles", advice=_ADVICE, most=MAX_FILE_BYTES)
    try:
        return profiles_from_message(ParseDict(raw, pb.Profiles()))
    except UsageError as error:
        raise UsageError(f"{path} is no profile file: {error.sentence}", advice=_ADVICE) from error
    except ParseError as error:
        innermost = str(error).partition("\n")[0].rpartition("Failed to parse ")[2].rstrip(".")
        raise UsageError(f"{path} is no profile file: {innermost}.", advice=_ADVICE) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no profile file: it is not one object of named parts.", advice=_ADVICE) from error


def profiles_to_message(profiles: Profiles) -> pb.Profiles:
    """Returns the message that a file holds."""
    return pb.Profiles(
        format=FORMAT,
        model=profiles.model,
        machine=profiles.machine,
        source=profiles.source,
        devices=map(device_profile_to_wire, profiles.devices),
        clouds=map(cloud_profile_to_wire, profiles.clouds),
        accuracy_source=profiles.accuracy_source,
        accuracy=accuracy_to_wire(profiles.accuracy),
        sizes=sizes_to_wire(profiles.sizes),
    )


def profiles_from_message(message: pb.Profiles) -> Profiles:
    """Returns the profiles in a message. Raises UsageError for what is no file of this format."""
    if message.format != FORMAT:
        raise UsageError(f"It has format {message.format}, but this version reads {FORMAT}.")
    if not message.devices or not message.clouds:
        raise UsageError(f"It lacks {'clouds' if message.devices else 'devices'}.")
    source = message.accuracy_source
    if source not in get_args(AccuracySource):
        raise UsageError(f"accuracy_source is '{source[:40]}', and not one of {', '.join(get_args(AccuracySource))}.")
    return Profiles(
        model=message.model,
        machine=message.machine,
        source=message.source,
        devices=device_profiles_from_wire(message.devices),
        clouds=cloud_profiles_from_wire(message.clouds),
        accuracy=accuracy_from_wire(message.accuracy),
        accuracy_source=cast("AccuracySource", source),
        sizes=sizes_from_wire(message.sizes),
    )


def _as_json(message: Message) -> dict[str, Any]:
    """Returns the message's fields by name, as JSON that people read: numbers are numbers, times have DIGITS digits."""
    return {field.name: _value(value) for field, value in message.ListFields()}


def _value(value: Any) -> Any:
    if isinstance(value, Message):
        return _as_json(value)
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value if isinstance(value, str | int) else [_value(item) for item in value]


def _shown(value: Any, indent: str = "") -> str:
    """Returns JSON text in which each row of a table has a line."""
    inner = indent + "  "
    if isinstance(value, dict) and any(map(_is_table, value.values())):
        parts = [f"{inner}{json.dumps(key)}: {_shown(part, inner)}" for key, part in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if _is_table(value):
        return "[\n" + ",\n".join(inner + _shown(row, inner) for row in value) + f"\n{indent}]"
    return json.dumps(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(row, dict) for row in value)
