"""The process inside a run's namespaces, as the daemon asks it: answers are matched to questions by their ids."""

import asyncio
import os
import socket

import pytest
from tproxy_cli.daemon.given.running import Files
from tproxy_cli.daemon.runs.inside import READY, Inside
from tproxy_cli.run import packets

from tproxy.errors import TproxyError


async def asked(theirs: socket.socket) -> packets.Json:
    """The next question, with what is in its descriptor."""
    loop = asyncio.get_running_loop()
    received = await loop.run_in_executor(None, packets.receive, theirs)
    assert received is not None
    message, descriptors = received
    for descriptor in descriptors:
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            message["archive"] = file.read()
    return message


def answer(theirs: socket.socket, number: str, count: int = 0, **content: object) -> None:
    made = [socket.socket() for _ in range(count)]
    packets.send(theirs, {"id": number, **content}, [one.fileno() for one in made])
    for one in made:
        one.close()


def test_answers_to_an_earlier_daemon_are_nobodys() -> None:
    async def scenario() -> None:
        ours, theirs = packets.pair()
        inside = Inside(ours)
        with theirs:
            wanted = asyncio.create_task(inside.socket(socket.AF_INET, socket.SOCK_STREAM))  # noqa: TID251
            question = await asked(theirs)
            assert question["count"] == READY
            answer(theirs, "of an earlier one", 1)
            answer(theirs, question["id"], 2)
            (await wanted).close()
            (await inside.socket(socket.AF_INET, socket.SOCK_STREAM)).close()
            inside.close()

    asyncio.run(scenario())


def test_files_go_in_memory_and_troubles_come_back() -> None:
    async def scenario() -> None:
        ours, theirs = packets.pair()
        inside = Inside(ours)
        with theirs:
            for content in ({"directory": "/d", "left": []}, {"error": {"message": "no room", "hint": "make some"}}):
                put = asyncio.create_task(inside.put(Files(b"archive", ("/etc/x",)), ""))  # noqa: TID251
                question = await asked(theirs)
                assert question["files"] == {"mounts": ["/etc/x"], "directory": ""}
                assert question["archive"] == b"archive"
                answer(theirs, question["id"], **content)
                if "error" in content:
                    with pytest.raises(TproxyError, match="no room"):
                        await put
                else:
                    assert (await put)["directory"] == "/d"
            put = asyncio.create_task(inside.put(Files(b"", ()), ""))  # noqa: TID251
            await asked(theirs)
        with pytest.raises(TproxyError, match="could not be handed"):
            await put
        inside.close()

    asyncio.run(scenario())
