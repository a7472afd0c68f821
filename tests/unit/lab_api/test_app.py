"""The lab's API server as an application: what becomes of who leaves early."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from tproxy.kube.port import PODS
from tproxy.lab.api import authn
from tproxy.lab.api.app import make_app
from tproxy.lab.api.store import Store

POD = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}


async def no_dial(namespace: str, pod: str, port: int) -> socket.socket:
    raise ConnectionRefusedError


async def gone(namespace: str, pod: str, container: str, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
    """The client's connection ends just when the answer is to begin."""
    raise ConnectionResetError("Cannot write to closing transport")
    yield b""


def test_who_has_left_is_no_error_of_the_server(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store.create(PODS, POD)
        runner = web.AppRunner(make_app(store, {"token": authn.admin()}, no_dial, gone), access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = "http://{}:{}/api/v1/namespaces/default/pods/p/log".format(*runner.addresses[0])
            headers = {"Authorization": "Bearer token"}
            async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
                assert answer.status == 499
        finally:
            await runner.cleanup()

    caplog.set_level(logging.INFO)
    asyncio.run(main())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
