"""Users who keep asking: a program that runs where they are, and has the standard library only.

HOST:PORT… are asked in turn, every INTERVAL seconds on a connection of its own, and each beside that on KEPT ones that
stay. A line is printed for each request: kind (`new` or `kept`), when it began (monotonic), seconds, and who answered;
or, after `!`, what went wrong; or `~closed` for a kept connection that was closed before anything came: clients then
ask again on a new one.
"""

import asyncio
import sys

INTERVAL = 0.01
KEPT = 4
KEPT_INTERVAL = 0.05
TIMEOUT = 15.0
"""Longer than anybody may have to wait for the app."""


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> str:
    """One request and its answer's first word."""
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].split()[0])
    body = (await reader.readexactly(length)).decode()
    status = head.split()[1]
    return body.split()[0] if status == "200" else f"!{status}"


def tell(kind: str, began: float, who: str) -> None:
    """Print what came of a request."""
    print(kind, f"{began:.6f}", f"{asyncio.get_running_loop().time() - began:.6f}", who, flush=True)


def trouble(error: BaseException) -> str:
    return f"!{type(error).__name__}"


async def once(host: str, port: int) -> None:
    """On a connection of its own."""
    began = asyncio.get_running_loop().time()
    writer = None
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            who = await ask(reader, writer, host)
    except (OSError, EOFError, TimeoutError) as error:
        who = trouble(error)
    if writer:
        writer.close()
    tell("new", began, who)


async def again_and_again(host: str, port: int) -> None:
    """On one connection, as long as it lasts; then on the next. That it has ended between two requests is no error."""
    loop = asyncio.get_running_loop()
    while True:
        writer, asked = None, 0
        began = loop.time()
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), TIMEOUT)
            while not reader.at_eof():
                began = loop.time()
                who = await asyncio.wait_for(ask(reader, writer, host), TIMEOUT)
                tell("kept", began, who)
                asked += 1
                await asyncio.sleep(KEPT_INTERVAL)
        except (OSError, EOFError, TimeoutError) as error:
            stale = asked and (isinstance(error, ConnectionError) or getattr(error, "partial", None) == b"")
            tell("kept", began, "~closed" if stale else trouble(error))
            await asyncio.sleep(INTERVAL)
        finally:
            if writer:
                writer.close()


async def main(addresses: list[tuple[str, int]]) -> None:
    """Ask until ended."""
    async with asyncio.TaskGroup() as tasks:
        for host, port in addresses:
            for _ in range(KEPT):
                tasks.create_task(again_and_again(host, port))
        while True:
            for host, port in addresses:
                tasks.create_task(once(host, port))
                await asyncio.sleep(INTERVAL)


if __name__ == "__main__":
    split = [each.rpartition(":") for each in sys.argv[1:]]
    asyncio.run(main([(host, int(port)) for host, _, port in split]))
