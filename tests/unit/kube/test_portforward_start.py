"""How a port-forward begins and whom it lets in: the first WebSocket, what fails, the socket on the laptop."""

import asyncio
import contextlib
import gc
import os
import socket
import stat
import warnings
from pathlib import Path

import pytest
from aiohttp import web

from tests.unit.kube.forwards import PATH, PORT, Run, echo, forwarding, kubelet
from tests.unit.kube.server import config_of, serving, status_object, until
from tproxy.errors import ClusterError, DeniedError
from tproxy.kube.api import ApiCluster
from tproxy.kube.errors import NotFoundError
from tproxy.kube.portforward import PortForward


def test_the_first_websocket_is_used_for_the_first_connection(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with forwarding(tmp_path) as (server, _, path):
            assert len(server.seen) == 1
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert len(server.seen) == 1
            writer.close()

    run(main())


def test_a_first_websocket_that_has_died_is_replaced(tmp_path: Path, run: Run) -> None:
    opened = 0

    async def first_dies(request: web.Request) -> web.StreamResponse:
        nonlocal opened
        opened += 1
        if opened > 1:
            return await kubelet(echo)(request)
        ws = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await ws.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return ws

    async def main() -> None:
        async with forwarding(tmp_path, answer=first_dies) as (_, forward, path):
            ready = forward._ready
            assert ready is not None
            await until(lambda: not ready.alive)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()

    run(main())


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            (403, status_object(403, "Forbidden", "User x cannot get resource y")),
            DeniedError,
            'you may not get pods/portforward in namespace "shop"',
        ),
        ((404, status_object(404, "NotFound", 'pods "node" not found', name="node")), NotFoundError, "not found"),
        ((200, {}), ClusterError, "opened no v4.channel.k8s.io WebSocket"),
        ((500, {}), ClusterError, "failed to get pods/portforward"),
    ],
)
def test_what_is_raised_at_the_start(
    tmp_path: Path, answer: object, error: type[ClusterError], message: str, run: Run
) -> None:
    async def main() -> None:
        async with serving() as server:
            server.answers["GET", PATH] = answer
            cluster = ApiCluster(config_of(server))
            forward = PortForward(cluster, "shop", "node", PORT, tmp_path / "forwards")
            with pytest.raises(error, match=message):
                await forward.start()
            await forward.close()
            await cluster.close()

    run(main())
    assert list((tmp_path / "forwards").iterdir()) == []


def test_what_fails_later_is_kept_and_ends_the_connection(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with forwarding(tmp_path) as (server, forward, path):
            _, used = await asyncio.open_unix_connection(path)
            await until(lambda: forward._ready is None)
            server.answers["GET", PATH] = (403, status_object(403, "Forbidden", "User x cannot get resource y"))
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello?")
            with contextlib.suppress(ConnectionResetError):  # the kernel's word for an unread question
                assert await reader.read() == b""
            assert isinstance(forward.error, DeniedError)
            writer.close()
            used.close()

    run(main())


def test_a_server_without_the_subprotocol(tmp_path: Path, run: Run) -> None:
    async def other(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        return ws

    async def main() -> None:
        async with serving() as server:
            server.answers["GET", PATH] = other
            cluster = ApiCluster(config_of(server))
            with pytest.raises(ClusterError, match=r"opened no v4\.channel\.k8s\.io WebSocket"):
                await PortForward(cluster, "shop", "node", PORT, tmp_path / "f").start()
            await cluster.close()

    run(main())


def test_who_connects_while_it_closes_is_let_go(tmp_path: Path, run: Run) -> None:
    """Whatever has become of the connection by then: waiting, accepted, or about to get a transport."""

    async def main() -> None:
        for turns in range(12):
            async with forwarding(tmp_path) as (_, forward, path):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    await forward.close()
                    client.settimeout(0)
                    await until(lambda: ended(client))

    def ended(client: socket.socket) -> bool:
        try:
            return client.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(main())
        gc.collect()
    assert [str(one.message) for one in said] == []


def test_nobody_else_may_use_the_socket(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with forwarding(tmp_path) as (_, forward, path):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
            await forward.close()
            assert not list((tmp_path / "forwards").iterdir())

    run(main())


def test_a_directory_open_to_others_is_refused(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        (tmp_path / "forwards").mkdir(mode=0o755)
        with pytest.raises(ClusterError, match="is open to other users"):
            async with forwarding(tmp_path):
                pass
        (tmp_path / "forwards").rmdir()
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "forwards").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ClusterError, match="is open to other users"):
            async with forwarding(tmp_path):
                pass

    run(main())


def test_a_directory_that_cannot_be_used(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ClusterError, match="is too long for a socket"):
            async with forwarding(tmp_path / ("d" * 100)):
                pass
        (tmp_path / "file").touch()
        with pytest.raises(ClusterError, match="cannot make the directory"):
            async with forwarding(tmp_path / "file"):
                pass

    run(main())
