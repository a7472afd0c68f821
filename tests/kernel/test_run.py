"""`run` on the real kernel, as an ordinary user: what a command sees, whom it reaches, and what is left of it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.kernel.run_laptop import DEADLINE, Laptop, process_inside, processes, until
from tests.kernel.serving import serving
from tproxy.lab.ordinary import USER


def test_who_and_where_it_is(laptop: Laptop) -> None:
    done = laptop.run(
        "sh", "-c", "id -u; id -g; pwd; echo $MARK; umask; cat", text="stdin\n", environment={"MARK": "x"}
    )
    assert done.stdout.split() == [str(USER), str(USER), str(laptop.home), "x", "0022", "stdin"]
    assert done.stderr == ""
    assert laptop.run("sh", "-c", "echo $$ >pid; exec cat /proc/self/status").stdout.count("CapEff:\t0000000000000000")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -TERM $$"), 128 + signal.SIGTERM),
        (("sh", "-c", "kill -KILL $$"), 128 + signal.SIGKILL),
        (("no-such-command-at-all",), 127),
        (("./missing",), 127),
        (("/etc/passwd",), 126),
        (("/etc",), 126),
    ],
)
def test_exit_statuses_are_a_shells(laptop: Laptop, words: tuple[str, ...], status: int) -> None:
    done = laptop.run(*words)
    assert done.returncode == status, done.stderr
    assert ("hint: " in done.stderr) == (status in (126, 127))


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_loopback_port_that_nobody_has_inside_is_the_laptops(laptop: Laptop, family: int, host: str) -> None:
    with serving(family, socket.SOCK_STREAM, host, b"laptop") as port:
        code = f"import socket; c = socket.create_connection(({host!r}, {port})); print(c.getpeername()[:2], c.recv(9))"
        assert laptop.python(code) == f"({host!r}, {port}) b'laptop'"
    code = f"""
import socket
try: socket.create_connection(({host!r}, {port}))
except OSError as error: print(type(error).__name__)"""
    assert laptop.python(code) == "ConnectionRefusedError"


def test_a_port_that_somebody_has_inside_stays_inside(laptop: Laptop) -> None:
    with serving(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", b"laptop") as port:
        code = f"""
import socket
server = socket.create_server(("", {port}))
client = socket.create_connection(("127.0.0.1", {port}))
server.accept()[0].send(b"inside")
print(client.recv(9))"""
        assert laptop.python(code) == "b'inside'"


def test_the_laptops_network_by_its_own_address(laptop: Laptop) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        address = probe.getsockname()[0]
    with serving(socket.AF_INET, socket.SOCK_STREAM, address, b"laptop") as port:
        code = f"import socket; c = socket.create_connection(({address!r}, {port})); print(c.getpeername(), c.recv(9))"
        assert laptop.python(code) == f"({address!r}, {port}) b'laptop'"
    # Refused although the command listens at that very port, at any address of its own.
    code = f"""
import socket
server = socket.create_server(("", {port}))
try: socket.create_connection(({address!r}, {port}))
except OSError as error: print(type(error).__name__)"""
    assert laptop.python(code) == "ConnectionRefusedError"


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_datagrams_come_back_from_where_they_went(laptop: Laptop, family: int, host: str) -> None:
    with serving(family, socket.SOCK_DGRAM, host, b"echo ") as port:
        code = f"""
import socket
for connected in (False, True):
    s = socket.socket({int(family)}, socket.SOCK_DGRAM)
    s.settimeout(5)
    if connected: s.connect(({host!r}, {port}))
    for size in (1, 9000, 2):
        s.send(bytes(size)) if connected else s.sendto(bytes(size), ({host!r}, {port}))
        data, peer = s.recvfrom(65535)
        print(len(data), peer[:2] == ({host!r}, {port}))"""
        assert laptop.python(code).splitlines() == ["6 True", "9005 True", "7 True"] * 2


def test_names_of_the_cluster_by_udp_and_tcp(laptop: Laptop) -> None:
    done = laptop.run("getent", "ahostsv4", "web")
    assert done.stdout.split()[0] == "10.96.0.7", done.stderr
    assert "10.96.0.7" in laptop.run("dig", "+search", "+short", "web").stdout
    assert "10.96.0.7" in laptop.run("dig", "+tcp", "+short", "web.shop.svc.cluster.local").stdout
    assert "status: NXDOMAIN" in laptop.run("dig", "none.shop.svc.cluster.local").stdout
    # A long one is cut by UDP, and asked for again by TCP.
    padded = laptop.run("dig", "+ednsopt=12:" + "00" * 60, "+bufsize=600", "web.shop.svc.cluster.local").stdout
    assert "Truncated, retrying in TCP mode" in padded
    assert "ANSWER: 100" in padded


def test_ports_inside_are_published(laptop: Laptop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    code = "import socket; s = socket.create_server(('', 80)); print('up', flush=True); s.accept()[0].send(b'inside')"
    process = laptop.begin(sys.executable, "-c", code, options=[f"{port}:80"])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        assert client.recv(9) == b"inside"
    process.communicate(timeout=DEADLINE)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_a_published_port_that_is_taken(laptop: Laptop) -> None:
    with serving(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", b"") as port:
        done = laptop.run("true", options=[f"{port}:80"])
    assert done.returncode == 1
    assert f"cannot listen on port {port}" in done.stderr


def test_many_connections_at_once(laptop: Laptop) -> None:
    with serving(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", b"x" * 100) as port:
        code = f"""
import asyncio
async def one():
    reader, writer = await asyncio.open_connection("127.0.0.1", {port})
    data = await reader.read()
    writer.close()
    return len(data)
async def main():
    print(sum(await asyncio.gather(*(one() for _ in range(300)))))
asyncio.run(main())"""
        assert laptop.python(code) == "30000"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(laptop: Laptop, number: signal.Signals) -> None:
    code = f"""
import signal, sys
signal.signal({int(number)}, lambda *_: sys.exit(42))
print("up", flush=True)
signal.pause()"""
    process = laptop.begin(sys.executable, "-c", code)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 42


@pytest.mark.parametrize("killed", ["command line", "command", "inside", "daemon"])
def test_whoever_is_killed_nothing_is_left(laptop: Laptop, killed: str) -> None:
    code = "import os, subprocess; subprocess.Popen(['sleep', '1000']); print(os.getpid(), flush=True); input()"
    process = laptop.begin(sys.executable, "-c", code, stdin=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    namespace = os.readlink(f"/proc/{pid}/ns/net")
    inside = process_inside()
    victim = {"command line": process.pid, "command": pid, "inside": inside, "daemon": laptop.daemon.pid}[killed]
    os.kill(victim, signal.SIGKILL)
    if killed in ("inside", "daemon"):
        with contextlib.suppress(BrokenPipeError):
            process.communicate("\n", timeout=DEADLINE)
    process.wait(DEADLINE)

    def ended() -> bool:
        laptop.daemon.poll()
        if killed == "daemon":
            _end_successor()
        return not [line for line in processes() if "run_daemon" not in line]

    until(ended, "everything has ended")
    assert namespace not in subprocess.run(["lsns", "-t", "net"], capture_output=True, text=True, check=True).stdout


def _end_successor() -> None:
    """Tell the daemon to end that the run started when the first one had died: it waits for further commands."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "-u", str(USER)], capture_output=True, text=True, check=False)
    for line in listed.stdout.splitlines():
        if "-m tproxy_cli.daemon" in line:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGTERM)


def test_a_decoy_of_a_name_cache_is_never_asked(laptop: Laptop) -> None:
    directory = Path("/run/nscd")
    directory.mkdir(exist_ok=True)
    asked: list[str] = []
    with socket.socket(socket.AF_UNIX) as decoy:
        decoy.bind(str(directory / "socket"))
        (directory / "socket").chmod(0o666)
        decoy.listen(8)

        def note() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = decoy.accept()
                    with client:
                        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                        pid = int.from_bytes(credentials[:4], sys.byteorder)
                        asked.append(Path(f"/proc/{pid}/comm").read_text().strip())

        thread = threading.Thread(target=note)
        thread.start()
        try:
            # Outside it is asked, so that this test could fail.
            subprocess.run(["getent", "hosts", "localhost"], check=True)
            before = asked.count("getent")
            done = laptop.run("getent", "ahostsv4", "web")
        finally:
            decoy.shutdown(socket.SHUT_RDWR)
            thread.join()
            (directory / "socket").unlink()
            with contextlib.suppress(OSError):
                directory.rmdir()
    assert done.stdout.split()[0] == "10.96.0.7", done.stderr
    assert asked.count("getent") == before > 0
