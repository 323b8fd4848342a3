"""Logs on standard error: one JSON object a line, or plain text for people. Never a picture, prompt, answer or key."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from splitvlm.settings import Logging

_OURS = "splitvlm"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: `time`, `level`, `logger`, `event`, then what the call gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as one line of JSON, with what the caller gave as `extra`."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def set_up(settings: Logging) -> None:
    """Sets what this process logs: splitvlm's own words at the level given, of libraries only warnings and errors.

    Libraries log at lower levels what passes through them: Pillow the EXIF of pictures, HTTP clients addresses with their keys.
    """
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if settings.json_lines else plain)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger(_OURS).setLevel(level)
