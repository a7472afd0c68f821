"""Capturing packets of a pod's network, with the real kernel, read back by tcpdump."""

import asyncio
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tproxy_node.child import Child

from tests.kernel.namespaces import OUTSIDE_IP4, POD_IP4, POD_IP6, PodNetwork
from tproxy.trace.packets import PacketSocket
from tproxy.trace.pcapng import PACKET, Blocks

PORT = 8080


class Capture:
    """Collects what it says."""

    def __init__(self, child: Child, path: Path) -> None:
        self.child = child
        self.counts: dict[int, tuple[int, int]] = {}
        self.packets = 0
        self._blocks = Blocks()
        self._data = bytearray()
        self._path = path

    async def until_counted(self, packets: int) -> None:
        """Read until so many packets have come, and what was counted."""
        async with asyncio.timeout(20):
            while self.packets < packets or sum(received for received, _ in self.counts.values()) < packets:
                await self._some()

    async def until_over(self) -> None:
        """Read to the end."""
        async with asyncio.timeout(20):
            while await self._some():
                pass

    async def _some(self) -> bool:
        data = await self.child.some(1 << 16)
        for block in self._blocks.feed(data):
            self._data += block.data
            self.packets += block.kind == PACKET
            if block.statistics is not None:
                number, received, dropped = block.statistics
                self.counts[number] = (received, dropped)
        return bool(data)

    def shown(self, *options: str) -> list[str]:
        """What tcpdump makes of it, a packet to a line."""
        self._path.write_bytes(self._data)
        done = subprocess.run(
            ["tcpdump", "-nn", "-t", *options, "-r", str(self._path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert not re.search("truncated|error", done.stderr), done.stderr
        return done.stdout.splitlines()


@contextlib.asynccontextmanager
async def capturing(
    network: PodNetwork, path: Path, *, port: int = 0, packets: int = 10_000_000, snap_length: int = 262_144
) -> AsyncIterator[Capture]:
    child = await Child.start("tproxy_node.capture")
    try:
        asked = {"port": port, "snapLength": snap_length, "packets": packets, "pod": "shop/web-1", "memory": 128 << 20}
        child.tell(asked, [network.pod.netns.fileno()])
        async with asyncio.timeout(20):
            assert json.loads(await child.line()) == {"ready": True}
        yield Capture(child, path / "captured.pcapng")
    finally:
        await child.close()


async def talk(network: PodNetwork, host: str, port: int = PORT, data: bytes = b"hello", inside: bool = False) -> None:
    loop = asyncio.get_running_loop()
    with network.pod.listen(host, port) as listener:
        client = await (network.pod if inside else network.outside).connect(host, port)
        server, _ = await loop.sock_accept(listener)
        with client, server:
            await loop.sock_sendall(client, data)
            left = len(data)
            while left:
                left -= len(await loop.sock_recv(server, 1 << 16))


def test_what_tcpdump_says(network: PodNetwork, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with capturing(network, tmp_path) as capture:
            await talk(network, POD_IP4)
            await talk(network, POD_IP6)
            await talk(network, "127.0.0.1", inside=True)
            await capture.until_counted(15)
        shown = capture.shown()
        syns = [line for line in shown if "Flags [S]," in line]
        assert [re.sub(r"\.\d+ >", ".* >", line).split(": ")[0] for line in syns] == [
            f"IP {OUTSIDE_IP4}.* > {POD_IP4}.{PORT}",
            f"IP6 fd77::1.* > {POD_IP6}.{PORT}",
            f"IP 127.0.0.1.* > 127.0.0.1.{PORT}",
        ], "each once, also on the loopback"
        assert sum("length 5" in line for line in shown) == 3

    asyncio.run(scenario())


def test_one_port(network: PodNetwork, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with capturing(network, tmp_path, port=PORT) as capture:
            with contextlib.closing(network.outside.netns.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
                udp.sendto(b"this one", (POD_IP4, PORT))
                udp.sendto(b"not this", (POD_IP4, PORT + 1))
            await talk(network, POD_IP4, PORT + 1)
            await talk(network, POD_IP6, PORT)
            await capture.until_counted(6)
        shown = capture.shown()
        assert any("UDP, length 8" in line for line in shown)
        assert all(f".{PORT} " in line or f".{PORT}:" in line for line in shown), shown

    asyncio.run(scenario())


def test_a_part_of_each_and_so_many(network: PodNetwork, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with capturing(network, tmp_path, packets=4, snap_length=60) as capture:
            await talk(network, POD_IP4, data=bytes(5000))
            await capture.until_over()
            assert capture.child.process.wait(10) == 0
        shown = capture.shown("-e")
        assert len(shown) == 4
        assert capture.packets == 4
        assert any("[|" in line for line in capture.shown("-v")), "tcpdump sees that they are cut"

    asyncio.run(scenario())


def test_what_nobody_reads_is_dropped_and_counted(network: PodNetwork, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with capturing(network, tmp_path) as capture:
            os.kill(capture.child.process.pid, signal.SIGSTOP)
            try:
                with contextlib.closing(network.outside.netns.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
                    for _ in range(12_000):  # more than the ring holds
                        udp.sendto(bytes(1400), (POD_IP4, PORT))
            finally:
                os.kill(capture.child.process.pid, signal.SIGCONT)
            await capture.until_counted(2_000)
            async with asyncio.timeout(20):
                while sum(received for received, _ in capture.counts.values()) < 12_000:
                    await capture._some()
            dropped = sum(dropped for _, dropped in capture.counts.values())
            received = sum(received for received, _ in capture.counts.values())
            assert dropped > 1000
            await capture.until_counted(received - dropped)

    asyncio.run(scenario())


@pytest.mark.parametrize("how", [("set", "eth0", "down"), ("delete", "eth0")])
def test_an_interface_that_is_gone_is_waited_for(network: PodNetwork, how: tuple[str, ...]) -> None:
    one = PacketSocket(network.pod.netns, "eth0", PORT, 80)
    try:
        network.pod.run("ip", "link", *how)
        assert select.select([one], [], [], 5)[0], "the kernel says so"
        assert list(one.read()) == []
        assert not select.select([one], [], [], 0)[0], "and then no more: else whoever waits for packets would spin"
    finally:
        one.close()


@pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark on this machine")
def test_what_wireshark_says(network: PodNetwork, tmp_path: Path) -> None:
    """Its own reader, which knows more of the format than tcpdump's: names, comments, directions, nanoseconds."""
    fields = ("frame.interface_name", "frame.packet_flags_direction", "frame.len", "frame.cap_len", "frame.time_epoch")
    began = time.time()

    async def scenario() -> Capture:
        async with capturing(network, tmp_path, port=PORT, snap_length=80) as capture:
            await talk(network, POD_IP4, data=bytes(500))
            await capture.until_counted(5)
        return capture

    capture = asyncio.run(scenario())
    capture.shown()
    for source in (("-r", str(tmp_path / "captured.pcapng")), ("-i", "-", "-c", str(capture.packets))):
        with (tmp_path / "captured.pcapng").open("rb") as piped:
            done = subprocess.run(
                ["tshark", *source, "-Tfields", "-Eseparator=,", *(word for field in fields for word in ("-e", field))],
                stdin=piped, capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
        packets = [line.split(",") for line in done.stdout.splitlines()]
        assert len(packets) == capture.packets
        assert {name for name, *_ in packets} == {"eth0"}
        assert {int(direction, 16) for _, direction, *_ in packets} == {1, 2}, "to the pod, and from it"
        assert max(int(length) for *_, length, _, _ in packets) > 500
        assert {int(kept) for *_, kept, _ in packets} <= {*range(81)}
        times = [float(moment) for *_, moment in packets]
        assert times == sorted(times)
        assert began <= times[0] <= times[-1] <= time.time()
    told = subprocess.run(
        ["capinfos", "-M", str(tmp_path / "captured.pcapng")], capture_output=True, text=True, check=True
    )
    assert "Capture comment:     shop/web-1" in told.stdout
    assert "Filter string = port 8080" in told.stdout
    assert "Number of interfaces in file: 2" in told.stdout


def test_it_ends_with_its_reader(network: PodNetwork, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with capturing(network, tmp_path) as capture:
            process = capture.child.process
        assert process.returncode == 0, "told to, it ends by itself"

    asyncio.run(scenario())
