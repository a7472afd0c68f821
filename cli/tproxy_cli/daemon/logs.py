"""The daemon's log: one file of bounded size, readable by its user alone, for people.

    2026-01-31 12:34:56.789 warning tunnels: lost the tunnel node=node1

Tokens and credentials are never passed to a logger; nothing here could recognise them.
"""

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 2 * 1024 * 1024
"""Size at which the log moves to `daemon.log.1`, of which there is one."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Formatter(logging.Formatter):
    """Time, level, module, message, then extra fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        moment = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')}.{int(record.msecs):03d}"
        fields = "".join(f" {name}={value}" for name, value in vars(record).items() if name not in _STANDARD)
        text = f"{moment} {record.levelname.lower()} {record.name.rsplit('.', 1)[-1]}: {record.getMessage()}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def configure(path: Path) -> None:
    """Send all logs to `path`. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("aiohttp.access", "asyncio", "kubernetes", "urllib3", "grpc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
