"""The daemon as a process: one per user, without root, its files its own.

Order matters. The lock comes first, so that only its holder touches the socket. The socket listens before the heavy
imports, so that the command line connects while they go on.
"""

import asyncio
import fcntl
import gc
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from tproxy.errors import TproxyError
from tproxy_cli import paths
from tproxy_cli.client import ANOTHER_RUNS

BACKLOG = 64
MAX_DESCRIPTORS = 1 << 20
_RUN_KIND = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM
"""Of the socket for runs, which other systems don't have and nobody connects to there."""

MACOS_DESCRIPTORS = 10240
"""OPEN_MAX: macOS refuses more although it calls the hard limit infinite."""


def main() -> int:
    """Be the daemon; the exit status."""
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # `tproxy run`, which may have started us, blocks some
    try:
        lock = _lock()
        try:
            # Whoever finds the daemon listening goes on to the door for runs: that one comes first.
            door = _listen(paths.run_socket_path(), _RUN_KIND)
            _serve(_listen(paths.socket_path()), door)
        finally:
            # Still under the lock: the next daemon's socket must not be the one removed.
            for path in (paths.socket_path(), paths.run_socket_path()):
                path.unlink(missing_ok=True)
            os.close(lock)
    except TproxyError as error:
        print(f"error: {error.message}\n\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def _serve(listener: socket.socket, door: socket.socket) -> None:
    from tproxy_cli.daemon import logs

    log = paths.state_dir() / "daemon.log"
    try:
        logs.configure(log)
    except OSError as error:
        raise TproxyError(f"cannot write the log {log}: {error.strerror}", f"look at `ls -l {log}`") from error
    _raise_descriptor_limit()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core writes to stderr what we report ourselves
    gc.disable()  # of what imports make nothing is garbage: looking for it takes a tenth of their time
    from tproxy_cli.daemon.server import run

    gc.freeze()
    gc.enable()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run(listener, door))


def _lock() -> int:
    """Hold the lock until the process ends. Raises TproxyError if another daemon does."""
    path = paths.lock_path()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise TproxyError(
            f"a tproxy daemon of yours is running already{f' (process {holder})' if holder else ''}",
            "`tproxy status` shows it, `tproxy quit` ends it",
            exit_code=ANOTHER_RUNS,
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _listen(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Listen at `path`, in place of a socket that a killed daemon left."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind)
    before = os.umask(0o177)  # others must not connect even for a moment
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise TproxyError(f"cannot listen on {path}: {error.strerror}", f"look at `ls -ld {path.parent}`") from error
    finally:
        os.umask(before)
    return listener


def _raise_descriptor_limit() -> None:
    """Each connection takes two descriptors, and the usual soft limit is 1,024, for `select`'s sake."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MACOS_DESCRIPTORS if sys.platform == "darwin" else MAX_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
