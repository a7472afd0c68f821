"""Chromium without a window, at the lab's outside user, driven by its DevTools protocol."""

import asyncio
import contextlib
import itertools
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.kernel.namespaces import Namespace
from tproxy.tasks import Tasks

SECONDS = 30.0
FLAGS = (
    "--headless",
    "--no-sandbox",  # the lab's user is root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


class Browser:
    """One tab. Times out as a whole with `asyncio.timeout` around it."""

    def __init__(self, devtools: ClientConnection) -> None:
        self._devtools = devtools
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._session: dict[str, str] = {}
        self.connections: dict[str, list[int]] = {}
        """The connections that answers came by, as the browser numbers them, in order, by URL."""

    async def listen(self) -> None:
        """Take what the browser says, until it ends."""
        async for message in self._devtools:
            said = json.loads(message)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Network.responseReceived":
                response = said["params"]["response"]
                self.connections.setdefault(response["url"], []).append(response["connectionId"])

    async def ask(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol; its result. Raises AssertionError."""
        number = next(self._numbers)
        coming = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._devtools.send(json.dumps({"id": number, "method": method, "params": parameters, **self._session}))
        answer = await coming
        assert "error" not in answer, answer
        return answer["result"]

    async def begin(self) -> None:
        """Open the tab."""
        target = await self.ask("Target.createTarget", url="about:blank")
        found = await self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": found["sessionId"]}
        await self.ask("Network.enable")

    async def go(self, url: str, **headers: str) -> str:
        """Go to a page, and have every request bear these headers as an extension would; the page's text."""
        await self.ask("Network.setExtraHTTPHeaders", headers=headers)
        await self.ask("Page.navigate", url=url)
        return str(
            await self.run("document.readyState == 'complete' ? document.body.innerText.trim() : null", patient=True)
        )

    async def run(self, script: str, patient: bool = False) -> Any:
        """What an expression or promise of the page's JavaScript is; `patient`: once it is something."""
        while True:
            done = await self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
            assert "exceptionDetails" not in done, done
            value = done["result"].get("value")
            if value or not patient:
                return value


@contextlib.asynccontextmanager
async def browser(lab: Any, place: Namespace) -> AsyncIterator[Browser]:
    """One that runs in the outside user's network."""
    with tempfile.TemporaryDirectory(prefix="tproxy-browser-", ignore_cleanup_errors=True) as directory:
        line = ("exec", "user", "--", "chromium", *FLAGS, f"--user-data-dir={directory}", "about:blank")
        process = lab.start(*line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            async with asyncio.timeout(SECONDS):
                port, path = await _address(Path(directory) / "DevToolsActivePort", process)
                sock = await place.connect("127.0.0.1", port)
                async with connect(f"ws://127.0.0.1:{port}{path}", sock=sock, max_size=None) as devtools:
                    one, tasks = Browser(devtools), Tasks("browser")
                    tasks.start(one.listen(), "what the browser says")
                    try:
                        await one.begin()
                        yield one
                    finally:
                        await tasks.close()
        finally:
            process.terminate()
            process.wait(SECONDS)


async def _address(file: Path, process: subprocess.Popen[str]) -> tuple[int, str]:
    while True:
        assert process.poll() is None, "chromium has ended"
        with contextlib.suppress(FileNotFoundError, ValueError):
            port, path = file.read_text().split()  # noqa: ASYNC240
            return int(port), path
        await asyncio.sleep(0.05)
