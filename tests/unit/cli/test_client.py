"""Starting the daemon on demand, and what is said when it does not do what it should."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tproxy_cli import client, paths

from tests.unit.cli.fakes import FakeDaemon, Outcome, wait_for

Tproxy = Callable[..., Outcome]
Programs = Callable[..., list[subprocess.Popen[bytes]]]


def environment() -> dict[str, str]:
    """For programs of their own process: this one's, and where it imports from."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


LISTEN = """
import fcntl, os, socket, sys
from tproxy_cli import paths
lock = os.open(paths.lock_path(), os.O_RDWR | os.O_CREAT)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(75)  # client.ANOTHER_RUNS
paths.socket_path().unlink(missing_ok=True)
listener = socket.socket(socket.AF_UNIX)
listener.bind(str(paths.socket_path()))
listener.listen()
"""
"""A program that behaves like the daemon until it listens."""

ANSWER = """
import json
answer = json.dumps({"result": {"version": "0.1.0", "intercepts": [], "pid": os.getpid()}}).encode()
while True:
    connection, _ = listener.accept()
    with connection:
        request = b""
        while (part := connection.recv(65536)) and not (request := request + part).endswith(b"}"):
            pass
        if request:
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(answer) + answer)
"""


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    """Have the given programs started in place of the daemon, one after the other, the last one for ever."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def use(*sources: str) -> list[subprocess.Popen[bytes]]:
        def spawn(log: Path) -> subprocess.Popen[bytes]:
            source = sources[min(len(started), len(sources) - 1)]
            with log.open("ab") as file:
                started.append(real([sys.executable, "-c", source], stdout=file, stderr=file, env=environment()))
            return started[-1]

        monkeypatch.setattr(client, "_spawn", spawn)
        return started

    yield use
    for process in started:
        process.kill()
        process.wait()


def test_a_command_starts_the_daemon_and_the_next_one_uses_it(tproxy: Tproxy, programs: Programs) -> None:
    started = programs(LISTEN + ANSWER)
    got = tproxy("list")
    assert (got.code, got.err.splitlines()[0]) == (0, "starting the tproxy daemon")
    assert tproxy("list").code == 0
    assert len(started) == 1


def test_a_stale_socket_is_no_daemon(tproxy: Tproxy, programs: Programs) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(paths.socket_path()))
    assert tproxy("status").out == "daemon: not running; it starts when it is needed\n"
    programs(LISTEN + ANSWER)
    assert tproxy("list").code == 0


@contextmanager
def daemon_with_the_lock(then: str) -> Iterator[Callable[[list[subprocess.Popen[bytes]]], None]]:
    """A process that has the lock but does not listen; it does `then` once the first of the given processes, which
    somebody else is about to start, has ended."""
    held = LISTEN.replace("listener.listen()", "sys.stdin.read(1)") + then
    process = subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, env=environment())
    assert process.stdin is not None
    threads = []

    def release_after(started: list[subprocess.Popen[bytes]]) -> None:
        def release() -> None:
            wait_for(lambda: started)
            started[0].wait(10)
            process.stdin.close()

        threads.append(threading.Thread(target=release))
        threads[0].start()

    try:
        wait_for(client._lock_held)
        yield release_after
    finally:
        process.kill()
        process.wait()
        for thread in threads:
            thread.join()


def test_losing_the_race_against_another_daemon_is_no_error(tproxy: Tproxy, programs: Programs) -> None:
    with daemon_with_the_lock("listener.listen()" + ANSWER) as release_after:
        started = programs(LISTEN)
        release_after(started)
        assert tproxy("list").code == 0
    assert len(started) == 1


def test_the_daemon_is_started_again_if_the_old_one_was_about_to_end(tproxy: Tproxy, programs: Programs) -> None:
    with daemon_with_the_lock("") as release_after:
        started = programs(LISTEN + ANSWER)
        release_after(started)
        assert tproxy("list").code == 0
    assert len(started) == 2


def test_a_daemon_that_cannot_start_shows_the_end_of_its_log(tproxy: Tproxy, programs: Programs) -> None:
    (paths.state_dir() / "daemon.log").write_text("an old line\n")
    programs("import sys; print('\\n'.join(map(str, range(20)))); sys.exit('no memory')")
    got = tproxy("list")
    assert got.code == 1
    assert got.err.endswith(
        "error: the tproxy daemon could not start (exit status 1)\n"
        "    13\n    14\n    15\n    16\n    17\n    18\n    19\n    no memory\n"
        "\n"
        f"hint: the whole log is {paths.log_path()}\n"
    )


def test_a_daemon_that_never_listens(tproxy: Tproxy, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "START_SECONDS", 0.1)
    programs("print('thinking', flush=True); import signal; signal.pause()")
    got = tproxy("list")
    assert got.code == 1
    assert "error: the tproxy daemon did not listen within 0 s" in got.err


def test_a_hung_daemon_is_named_with_its_process(
    tproxy: Tproxy, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    del daemon.answers["/v1/version"]
    monkeypatch.setattr(client, "MEMORY_SECONDS", 0.1)
    got = tproxy("list")
    assert got.code == 1
    assert got.err == (
        f"error: the tproxy daemon (process {os.getpid()}) has not answered for 0.1 s\n"
        "\n"
        f"hint: end it with `kill -9 {os.getpid()}` (the pods' own apps take over), then run the command again\n"
    )


def test_a_daemon_that_accepts_nothing(tproxy: Tproxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as stopped, socket.socket(socket.AF_UNIX) as queued:
        stopped.bind(str(paths.socket_path()))
        stopped.listen(0)
        queued.connect(str(paths.socket_path()))
        monkeypatch.setattr(client, "MEMORY_SECONDS", 0.1)
        monkeypatch.setattr(client, "CONNECT_SECONDS", 0.1)
        got = tproxy("list")
    assert got.code == 1
    assert got.err.startswith("error: the tproxy daemon accepts no connections\n\nhint: ")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([b"<html>no\n"], "answered something else than JSON (HTTP status 200)"),
        ([b"[1]\n"], "answered something else than JSON (HTTP status 200)"),
        ([{"progress": "still at it"}], "ended the answer early (HTTP status 200)"),
    ],
)
def test_a_daemon_that_speaks_nonsense(tproxy: Tproxy, daemon: FakeDaemon, lines: list[object], message: str) -> None:
    daemon.answers["/v1/list"] = lines  # type: ignore[assignment]
    got = tproxy("list")
    assert got.code == 1
    assert message in got.err
    assert "Traceback" not in got.err


def test_ctrl_c_closes_the_request_and_leaves_with_130(home: Path, daemon: FakeDaemon) -> None:
    """The daemon learns of it by the closed connection."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from tproxy_cli.main import main; main()", "intercept", "web", "-p", "3000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with process:
        wait_for(lambda: daemon.bodies("/v1/intercept"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "error: interrupted; what was begun is being undone\n")
    assert daemon.dropped.wait(5)


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        got = subprocess.run(
            [sys.executable, "-c", "from tproxy_cli.main import main; main()", "help", "environment"],
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
    finally:
        os.close(theirs)
    assert (got.returncode, got.stderr) == (141, "")


def test_a_full_disk_is_told(home: Path) -> None:
    with open("/dev/full", "w") as full:
        got = subprocess.run(
            [sys.executable, "-c", "from tproxy_cli.main import main; main()", "help", "environment"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
    assert got.returncode == 1
    assert got.stderr == "error: cannot write the result: No space left on device\n\nhint: see where stdout leads\n"
