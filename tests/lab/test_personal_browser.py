"""A browser, which keeps its connections, on a page that two developers and everybody else share."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.namespaces import Namespace
from tests.lab.browser import browser
from tests.lab.developers import Developer, developers
from tests.lab.laptop import network
from tests.lab.scene import PORT
from tproxy.kube.port import NAMESPACES

ASK = """
(async () => {
    const ask = async user => {
        const headers = user ? {"x-user": user} : {};
        return (await (await fetch("/asked", {headers, cache: "no-store"})).text()).trim();
    };
    const users = ["ada", "", "eve", "bob"], answers = [];
    for (let round = 0; round < 8; round++)
        for (const user of users) answers.push([user, await ask(user)]);
    const many = Array.from({length: 24}, (_, number) => users[number % 4]);
    return [...answers, ...await Promise.all(many.map(async user => [user, await ask(user)]))];
})()
"""
POST = (
    """fetch("/", {method: "POST", headers: {"x-user": "ada"}, body: "x".repeat(300000)}).then(said => said.text())"""
)
EVENTS = """
new Promise(done => {
    const seen = [], source = new EventSource("/events");
    source.onmessage = event => { if (seen.push(event.data) == 3) { source.close(); done(seen); } };
})
"""
SOCKET = """
new Promise((done, failed) => {
    const seen = [], socket = new WebSocket(`ws://${location.host}/ws`);
    socket.onerror = failed;
    socket.onmessage = event => {
        if (seen.push(event.data) == 2) { socket.close(); done(seen); } else socket.send("hello");
    };
})
"""


@pytest.fixture
def ada(lab: Any) -> Iterator[Developer]:
    """She and Eve intercept."""
    lab.client.create(NAMESPACES, {"metadata": {"name": "browser"}})
    with developers(lab, "browser") as both:
        for one in both:
            one.begin()
        yield both[0]
        for one in both:
            one.end()


@pytest.fixture
def outside(lab: Any) -> Iterator[Namespace]:
    place = network(lab.layout.netns("user"))
    yield place
    place.netns.close()


def expected(user: str, said: str) -> bool:
    who, whose = said.split()
    return whose == (user or "-") and (who == user if user in ("ada", "eve") else who.startswith("web-"))


def test_a_browser_that_keeps_its_connections(ada: Developer, outside: Namespace) -> None:
    host = ada.pods()[0]["addresses"][0]

    async def scenario() -> None:
        async with browser(ada.lab, outside) as one:
            page = f"http://{host}:{PORT}/"
            assert (await one.go(page)).startswith("web-")
            answers = await one.run(ASK)
            assert len(answers) == 56
            assert [told for told in answers if not expected(*told)] == []
            # One after the other they went by one connection, whosever they were, but perhaps for the first, while the
            # page itself had that; and all of them by no more than a browser has.
            connections = one.connections[f"{page}asked"]
            assert len(set(connections[4:32])) == 1
            assert len(set(connections)) <= 6
            assert await one.run(POST) == "ada ada 300000\n"
            assert all(said.startswith("web-") for said in await one.run(EVENTS))
            [who, echo] = await one.run(SOCKET)
            assert who.startswith("web-")
            assert echo == "hello"
            # With the header on everything that the page asks for.
            assert await one.go(f"{page}?hers", **{"X-User": "ada"}) == "ada ada"
            assert await one.run(EVENTS) == ["ada 0", "ada 1", "ada 2"]

    asyncio.run(scenario())
