"""What a long link with a narrow window leaves of an intercept by port-forward, for one download and for several.

    user ── pod ── node daemon ── API server ══ relay: 25 ms each way, 64 KiB under way ══ laptop daemon ── app

The relay stands for what is between a laptop and a far API server: every connection through it has at most a window's
bytes under way in each direction, as kubectl's port-forward and many proxies have. Without a window it only takes its
time. Downloads by the outside user come from the laptop's app. Run as root: `.venv/bin/python bench/longlink.py`.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from intercept import HERE, LAB, MEGABYTE, PORT, TPROXY, inside, run, status

RELAY_PORT = 6444
UNLIMITED = 1 << 30
NARROW = 64 << 10
CHUNK = 16 << 10
SETTLE_SECONDS = 14.0
"""After this long a tunnel has found out what kind of link it is on."""


async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, window: int) -> None:
    """One direction: each byte `delay` seconds late, and acknowledged as late again."""
    loop = asyncio.get_running_loop()
    room, under_way = asyncio.Event(), 0

    def arrive(data: bytes) -> None:
        writer.write(data)
        loop.call_later(delay, acknowledged, len(data))

    def acknowledged(size: int) -> None:
        nonlocal under_way
        under_way -= size
        room.set()

    while data := await reader.read(min(CHUNK, window)):
        while under_way + len(data) > window:
            room.clear()
            await room.wait()
        under_way += len(data)
        loop.call_later(delay, arrive, data)
    loop.call_later(delay, writer.close)


async def relay(host: str, port: int, delay: float, window: int) -> None:
    """Serve at RELAY_PORT for ever, on to `host`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection(host, port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(late(reader, onward_writer, delay, window), late(onward_reader, writer, delay, window))

    server = await asyncio.start_server(serve, "127.0.0.1", RELAY_PORT, limit=CHUNK)
    await server.serve_forever()


@contextlib.contextmanager
def lab() -> Iterator[tuple[str, dict[str, str]]]:
    """A lab of one node with the app on the laptop: its pod's URL, and the laptop's kubeconfigs with the relay."""
    with tempfile.TemporaryDirectory() as directory:
        manifests, kubeconfig = Path(directory) / "manifests.yaml", Path(directory) / "kubeconfig"
        manifests.write_text((HERE / "manifests.yaml").read_text().replace("BENCH", str(HERE)))
        try:
            run(TPROXY, "lab", "up", "--name", LAB, "--nodes", "1")
            run(TPROXY, "lab", "apply", "--name", LAB, "--wait", "-f", manifests)
            config = json.loads(run(TPROXY, "lab", "kubeconfig", "--name", LAB))
            server = config["clusters"][0]["cluster"]["server"]
            config["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{RELAY_PORT}"
            kubeconfig.touch(0o600)
            kubeconfig.write_text(json.dumps(config))
            pod = next(pod for pod in status()["pods"] if pod["name"].startswith("fast-"))
            with started(sys.executable, HERE / "server.py", "--port", str(PORT)):
                yield f"http://{pod['addresses'][0]}:{PORT}", {"server": server, "kubeconfig": str(kubeconfig)}
        finally:
            subprocess.run([TPROXY, "lab", "down", "--name", LAB], capture_output=True, check=False)


@contextlib.contextmanager
def started(*command: str | Path) -> Iterator[None]:
    """A program on the laptop."""
    process = subprocess.Popen([TPROXY, "lab", "exec", "--name", LAB, "laptop", "--", *command])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def download(url: str, connections: int, size: int) -> float:
    """MB/s of so many downloads side by side, `size` bytes together."""
    each = size // connections
    wanted: Sequence[str] = [part for _ in range(connections) for part in ("-o", "/dev/null", f"{url}/bytes/{each}")]
    began = time.monotonic()
    out = inside("user", "curl", "-sS", "-Z", "--parallel-max", "64", "-w", "%{size_download}\\n", *wanted)
    took = time.monotonic() - began
    if sum(map(int, out.split())) != each * connections:
        raise SystemExit(f"incomplete: {out}")
    return each * connections / MEGABYTE / took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--milliseconds", type=float, default=50)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--relay", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.relay:
        host, port, delay, window = options.relay
        asyncio.run(relay(host, int(port), float(delay), int(window)))
    delay = str(options.milliseconds / 2000)
    with lab() as (url, where):
        host, _, port = where["server"].removeprefix("http://").rpartition(":")
        print(f"{'window':8} {'1 download':>11} {f'{options.connections} downloads':>13}   MB/s")
        for window, size in ((UNLIMITED, 48 * MEGABYTE), (NARROW, 12 * MEGABYTE)):
            with started(sys.executable, HERE / "longlink.py", "--relay", host, port, delay, str(window)):
                command = (str(TPROXY), "intercept", "fast", "--port", str(PORT))
                time.sleep(1.0)
                inside("laptop", *command, "--kubeconfig", where["kubeconfig"])
                time.sleep(SETTLE_SECONDS)
                cells = [download(url, count, size) for count in (1, options.connections)]
                name = "64 KiB" if window == NARROW else "none"
                print(f"{name:8} {cells[0]:11.1f} {cells[1]:13.1f}", flush=True)
                inside("laptop", str(TPROXY), "quit")


if __name__ == "__main__":
    main()
