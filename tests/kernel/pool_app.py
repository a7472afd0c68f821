"""An app that keeps its connections, in a process of its own: `python pool_app.py PORT`.

HTTP/1 with answers of several kinds by path, else an echo of lines. Prints a line for each connection that ends.

/            who it is and the request's body
/events      an event stream: one event, then silence until the file descriptor's end
/slow        an answer whose head comes now and whose body when the client sends SIGUSR1
/ws          101, then an echo
"""

import asyncio
import signal
import sys

GO = asyncio.Event()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    end = "closed"
    try:
        while line := await reader.readline():
            if not line.endswith((b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")):
                writer.write(b"app " + line)
                continue
            await answer(line.split()[1].decode(), reader, writer)
    except OSError as error:
        end = type(error).__name__
    print(end, flush=True)
    writer.close()


async def answer(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    length = 0
    while (header := await reader.readline()) != b"\r\n":
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        if name.lower() == b"expect":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(length)
    if path == "/events":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await GO.wait()
        writer.write(b"data: 2\n\n")
    elif path == "/slow":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        await GO.wait()
        writer.write(b"done")
    elif path == "/ws":
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while data := await reader.read(1000):
            writer.write(data)
    else:
        text = b"app " + body
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


async def main() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, GO.set)
    server = await asyncio.start_server(serve, None, int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
