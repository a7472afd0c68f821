"""Structured logs on stderr: one JSON object per line, or text for people at a terminal.

Extra fields of a record (`extra={"pod": "shop/web-1"}`) become fields of the line. A record with a `rate_key` comes
from something the network can trigger at will: such records are limited per key, and the next one let through says how
many were left out.
"""

import json
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

RATE_PERIOD_SECONDS = 10.0
MAX_RATE_KEYS = 1024

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "rate_key"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, message, extra fields, error."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`12:34:56.789 info    reconcile: attached pod=shop/web-1`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record).items())
        name = record.name.rsplit(".", 1)[-1]
        text = f"{moment} {record.levelname.lower():7} {name}: {record.getMessage()}{fields}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def _word(value: object) -> str:
    """`value` without anything that could be taken for another field or line."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


class RateLimit(logging.Filter):
    """Lets one record per `rate_key` and period through and counts the others."""

    def __init__(self, period: float = RATE_PERIOD_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._period = period
        self._clock = clock
        self._keys: OrderedDict[str, tuple[float, int]] = OrderedDict()  # last let through, left out since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is written."""
        key = getattr(record, "rate_key", None)
        if key is None:
            return True
        now = self._clock()
        last, left_out = self._keys.get(key, (float("-inf"), 0))
        if now - last < self._period:
            self._keys[key] = (last, left_out + 1)
            return False
        self._keys[key] = (now, 0)
        self._keys.move_to_end(key)
        if len(self._keys) > MAX_RATE_KEYS:
            self._keys.popitem(last=False)
        if left_out:
            record.left_out = left_out
        return True


def configure(level: str, style: str, stream: TextIO = sys.stderr) -> None:
    """Send all logs to `stream`. `style` is `json`, `text`, or empty: text on a terminal, JSON otherwise."""
    handler = logging.StreamHandler(stream)
    text = style == "text" or (not style and stream.isatty())
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    handler.addFilter(RateLimit())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Chatty libraries; what they know at info level is of no use on a node.
    quiet: Mapping[str, int] = {"aiohttp.access": logging.WARNING, "asyncio": logging.WARNING}
    for name, minimum in quiet.items():
        logging.getLogger(name).setLevel(max(minimum, logging.getLogger().level))
