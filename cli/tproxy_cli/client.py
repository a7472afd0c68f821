"""The laptop daemon as the commands see it: starting it, asking it, and what to say when it does not answer.

Requests are JSON over HTTP on the daemon's unix socket; the answer is a stream of JSON lines, progress first and
one result or error last. Closing the connection before that cancels the request on the daemon's side.

Only the standard library is used, and that late: commands that never ask the daemon do not pay for it.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tproxy.errors import TproxyError
from tproxy.version import VERSION
from tproxy_cli import paths

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping
    from http.client import HTTPResponse
    from pathlib import Path

ANOTHER_RUNS = 75
"""Exit status of a daemon that finds another one running (EX_TEMPFAIL of sysexits.h)."""

START_SECONDS = 10.0
"""How long a started daemon may take until it listens."""

STOP_SECONDS = 10.0
"""How long the daemon may take from its last answer until it has ended."""

CONNECT_SECONDS = 2.0
"""How long the daemon may take to accept a connection: it does nothing else before."""

MEMORY_SECONDS = 5.0
"""How long the daemon may take for what it knows by itself before it counts as hung."""

ANSWER_SECONDS = 30.0
"""How long the daemon may be silent while it asks the cluster."""

CHUNK = 64 * 1024

LINE_LIMIT = 16 * 1024 * 1024
"""Longest line of an answer in bytes."""

LOG_LINES = 8
"""How many lines of the log are shown of a daemon that could not start."""

Json = dict[str, Any]


class NotRunningError(TproxyError):
    """No daemon listens on the socket."""


class SilentError(TproxyError):
    """The daemon is there but does not answer in time."""


class Daemon:
    """The daemon of this user. Holds no connection: each call makes its own."""

    def __init__(
        self, progress: Callable[[str], None] = lambda _: None, warn: Callable[[str, str], None] = lambda *_: None
    ) -> None:
        self._progress = progress
        self._warn = warn

    def running(self) -> bool:
        """Whether a daemon listens. A hung one does."""
        try:
            _connect().close()
        except NotRunningError:
            return False
        return True

    def call(
        self, path: str, body: Json | None = None, *, start: bool = False, seconds: float = ANSWER_SECONDS
    ) -> Json:
        """Ask for `path` and return the result; `seconds` is the longest silence to accept.

        With `start`, a daemon that does not run is started first. Raises what the daemon answered as
        TproxyError, `NotRunningError` without a daemon, and `SilentError` if it does not answer.
        """
        if start:
            self.ensure_running()
            self._check_version()
        with _connect() as connected:
            from http.client import HTTPConnection, HTTPException  # late: without a daemon it is not needed

            connected.settimeout(seconds)
            connection = HTTPConnection("tproxy")
            connection.sock = connected
            try:
                connection.request(
                    "POST",
                    path,
                    json.dumps(body or {}),
                    {"Content-Type": "application/json", "Connection": "close"},
                )
                return self._read(connection.getresponse())
            except TimeoutError as error:
                raise _silent(connected, seconds) from error
            except (OSError, HTTPException) as error:
                raise TproxyError(
                    "the tproxy daemon closed the connection before it answered",
                    f"its log says why: `tail {paths.log_path()}`; then run the command again",
                ) from error
            finally:
                connection.close()

    def ask(self, body: Json) -> "Iterator[Mapping[str, Any] | bytes]":
        """Ask a node daemon something (`/v1/ask`); its answer's objects or bytes as they come, for as long as they do.

        Starts the daemon if it does not run. Raises what was answered as TproxyError; to stop, close the iterator.
        """
        from tproxy.debug.answer import AnswerReader

        self.ensure_running()
        self._check_version()
        with _connect() as connected:
            from http.client import HTTPConnection, HTTPException

            connected.settimeout(ANSWER_SECONDS)
            connection = HTTPConnection("tproxy")
            connection.sock = connected
            reader = AnswerReader()
            try:
                connection.request("POST", "/v1/ask", json.dumps(body), {"Connection": "close"})
                response = connection.getresponse()
                while data := response.read1(CHUNK):
                    yield from reader.feed(data)
                    if reader.form:
                        connected.settimeout(None)  # what is followed may be quiet for long
                reader.end()
            except TimeoutError as error:
                raise _silent(connected, ANSWER_SECONDS) from error
            except (OSError, HTTPException) as error:
                raise TproxyError("the answer broke off", f"see `tail {paths.log_path()}`; ask again") from error
            finally:
                connection.close()

    def version(self) -> str:
        """The running daemon's version. Raises like `call`."""
        return str(self.call("/v1/version", seconds=MEMORY_SECONDS)["version"])

    def ensure_running(self) -> None:
        """Start the daemon unless one listens. Raises TproxyError with the end of its log if it cannot."""
        if self.running():
            return
        self._progress("starting the tproxy daemon")
        log = paths.state_dir() / "daemon.log"
        started_at = log.stat().st_size if log.exists() else 0
        process = _spawn(log)
        overtaken = False
        deadline = time.monotonic() + START_SECONDS
        while not self.running():
            if process.poll() is not None:
                # Ended at once: another daemon has the lock, one about to listen or one about to end.
                held = _lock_held()
                if not held and not overtaken and process.returncode != ANOTHER_RUNS:
                    raise TproxyError(
                        f"the tproxy daemon could not start (exit status {process.returncode})"
                        + _log_end(log, started_at),
                        f"the whole log is {log}",
                    )
                if not held:
                    process = _spawn(log)
                overtaken = held
            if time.monotonic() > deadline:
                raise TproxyError(
                    f"the tproxy daemon did not listen within {START_SECONDS:.0f} s" + _log_end(log, started_at),
                    f"the whole log is {log}",
                )
            time.sleep(0.01)

    def wait_stopped(self) -> None:
        """Wait until a daemon that was told to quit has ended. Raises SilentError if it has not in time."""
        deadline = time.monotonic() + STOP_SECONDS
        while self.running() or _lock_held():
            if time.monotonic() > deadline:
                raise SilentError(
                    f"the tproxy daemon has left everything but has not ended within {STOP_SECONDS:.0f} s",
                    f"its log says why: `tail {paths.log_path()}`",
                )
            time.sleep(0.01)

    def _check_version(self) -> None:
        version = self.version()
        if version != VERSION:
            self._warn(
                f"the tproxy daemon is of version {version}, this command of version {VERSION}",
                "`tproxy quit` stops it; the next command starts the new one",
            )

    def _read(self, response: "HTTPResponse") -> Json:
        while line := response.readline(LINE_LIMIT):
            try:
                event = json.loads(line)
                if not isinstance(event, dict):
                    raise ValueError("no JSON object")
            except ValueError as error:
                raise TproxyError(
                    f"the tproxy daemon answered something else than JSON (HTTP status {response.status})",
                    "it may be of another version: `tproxy quit`, then run the command again",
                ) from error
            if "progress" in event:
                self._progress(str(event["progress"]))
            elif "error" in event:
                answer = event["error"]
                raise TproxyError(answer["message"], answer.get("hint", ""), answer.get("exitCode", 1))
            elif "result" in event:
                result: Json = event["result"]
                return result
        raise TproxyError(
            f"the tproxy daemon ended the answer early (HTTP status {response.status})",
            f"its log says why: `tail {paths.log_path()}`",
        )


def _connect() -> socket.socket:
    path = paths.socket_path()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_SECONDS)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connection.close()
        raise NotRunningError("the tproxy daemon is not running", "`tproxy intercept` starts it") from error
    except (TimeoutError, BlockingIOError) as error:  # a full backlog: nobody accepts any more
        connection.close()
        raise SilentError(
            "the tproxy daemon accepts no connections", f"end it with `kill -9`; its socket is {path}"
        ) from error
    except OSError as error:
        connection.close()
        raise TproxyError(f"cannot reach the tproxy daemon at {path}: {error.strerror}", f"`ls -l {path}`") from error
    return connection


def _silent(connection: socket.socket, seconds: float) -> SilentError:
    pid = peer_pid(connection)
    return SilentError(
        f"the tproxy daemon{f' (process {pid})' if pid else ''} has not answered for {seconds:g} s",
        f"end it with `kill -9 {pid or 'PID'}` (the pods' own apps take over), then run the command again",
    )


def peer_pid(connection: socket.socket) -> int | None:
    """The process that listens at the other end, where the system tells."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:  # macOS
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, 12)
    return int.from_bytes(credentials[:4], sys.byteorder) or None


def _spawn(log: "Path") -> "subprocess.Popen[bytes]":
    import subprocess

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "tproxy_cli.daemon"],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,  # Ctrl-C in the terminal and its end are none of the daemon's business
            cwd="/",
        )
    finally:
        os.close(descriptor)


def _lock_held() -> bool:
    import fcntl

    try:
        descriptor = os.open(paths.lock_path(), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _log_end(log: "Path", since: int) -> str:
    """The last lines that were written after byte `since`, indented, to be put below an error."""
    with log.open("rb") as file:
        file.seek(since)
        lines = file.read(1024 * 1024).decode(errors="replace").splitlines()[-LOG_LINES:]
    return "".join(f"\n    {line}" for line in lines)
