"""A gRPC server and a client for tests: methods of every kind that echo bytes and say who answered.

grpc_app.py serve --port 50051
grpc_app.py call ADDRESS [--user ada]      prints what each kind of call brought, as JSON
grpc_app.py talk ADDRESS                   one call that lasts: each line of the input is sent, each answer printed
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

POD = os.environ.get("POD", "?")
BIG = 4 * 1024 * 1024
OPTIONS = (("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20))


def _identity(data: bytes) -> bytes:
    return data


class Service(grpc.GenericRpcHandler):
    """`/test.Echo/…`; trailing metadata `x-who` says who it was."""

    def service(self, details: Any) -> Any:
        """Find a method."""
        kinds = {
            "/test.Echo/Unary": (grpc.unary_unary_rpc_method_handler, self._unary),
            "/test.Echo/Down": (grpc.unary_stream_rpc_method_handler, self._down),
            "/test.Echo/Up": (grpc.stream_unary_rpc_method_handler, self._up),
            "/test.Echo/Both": (grpc.stream_stream_rpc_method_handler, self._both),
            "/test.Echo/Talk": (grpc.stream_stream_rpc_method_handler, self._talk),
            "/test.Echo/Slow": (grpc.unary_unary_rpc_method_handler, self._slow),
            "/test.Echo/Fail": (grpc.unary_unary_rpc_method_handler, self._fail),
        }
        found = kinds.get(details.method)
        return found and found[0](found[1], _identity, _identity)

    def _sign(self, context: Any) -> None:
        context.set_trailing_metadata((("x-who", POD), ("x-sum-bin", b"\0\xff")))

    def _unary(self, sent: bytes, context: Any) -> bytes:
        self._sign(context)
        return sent

    def _down(self, sent: bytes, context: Any) -> Iterator[bytes]:
        self._sign(context)
        for _ in range(100):
            yield sent

    def _up(self, sent: Iterable[bytes], context: Any) -> bytes:
        self._sign(context)
        return hashlib.sha256(b"".join(sent)).digest()

    def _both(self, sent: Iterable[bytes], context: Any) -> Iterator[bytes]:
        self._sign(context)
        yield from sent

    def _talk(self, sent: Iterable[bytes], context: Any) -> Iterator[bytes]:
        yield from (f"{POD} ".encode() + each for each in sent)

    def _slow(self, sent: bytes, context: Any) -> bytes:
        self._sign(context)
        deadline = time.monotonic() + 20
        while context.is_active() and time.monotonic() < deadline:
            time.sleep(0.01)
        print(f"slow call over, active {context.is_active()}", flush=True)
        return sent

    def _fail(self, sent: bytes, context: Any) -> bytes:
        self._sign(context)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wished: 100 % é")
        return b""


def serve(port: int) -> None:
    """Until killed."""
    server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
    server.add_generic_rpc_handlers((Service(),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    print(f"{POD} listens on {port}", flush=True)
    server.wait_for_termination()


def call(address: str, user: str) -> dict[str, Any]:
    """Every kind of call once, on one channel; what came back."""
    metadata = (("x-user", user),) if user else ()
    big = os.urandom(BIG)
    found: dict[str, Any] = {}
    with grpc.insecure_channel(address, OPTIONS) as channel:

        def method(kind: str, name: str) -> Any:
            return getattr(channel, kind)(f"/test.Echo/{name}", _identity, _identity)

        def who(done: Any) -> str:
            return str(dict(done.trailing_metadata()).get("x-who"))

        reply, done = method("unary_unary", "Unary").with_call(b"hello", metadata=metadata, timeout=20)
        found["unary"] = [who(done), reply == b"hello"]
        reply, done = method("unary_unary", "Unary").with_call(big, metadata=metadata, timeout=20)
        found["big"] = [who(done), reply == big]
        down = method("unary_stream", "Down")(b"x" * 10_000, metadata=metadata, timeout=20)
        found["down"] = [sum(map(len, down)), who(down)]
        reply, done = method("stream_unary", "Up").with_call(
            (big[at : at + 65536] for at in range(0, BIG, 65536)), metadata=metadata, timeout=20
        )
        found["up"] = [who(done), reply == hashlib.sha256(big).digest()]
        found["both"] = _ping_pong(method("stream_stream", "Both"), metadata)
        for name, timeout in (("Slow", 0.5), ("Fail", 20), ("Missing", 20)):
            try:
                method("unary_unary", name)(b"x", metadata=metadata, timeout=timeout)
            except grpc.RpcError as error:
                found[name.lower()] = [error.code().name, error.details()]  # type: ignore[attr-defined]
        unary = method("unary_unary", "Unary")
        calls = [unary.future(b"x", metadata=metadata if number % 2 else (), timeout=20) for number in range(100)]
        found["mixed"] = [sorted({who(each) for each in calls[first::2]}) for first in (1, 0)]
        cancelled = method("unary_unary", "Slow").future(b"x", metadata=metadata)
        time.sleep(0.2)
        cancelled.cancel()
        found["cancelled"] = cancelled.cancelled()
    return found


def _ping_pong(method: Any, metadata: Any) -> list[Any]:
    """Each message only after the answer to the one before."""
    import queue

    sent: queue.Queue[bytes | None] = queue.Queue()
    calls = method(iter(sent.get, None), metadata=metadata, timeout=20)
    for number in range(20):
        sent.put(b"%d" % number)
        if next(calls) != b"%d" % number:
            return ["wrong"]
    sent.put(None)
    return [str(dict(calls.trailing_metadata()).get("x-who")), list(calls) == []]


def talk(address: str) -> None:
    """Until the input ends; the last line says how it ended."""
    with grpc.insecure_channel(address, OPTIONS) as channel:
        answers = channel.stream_stream("/test.Echo/Talk", _identity, _identity)(
            line.strip().encode() for line in sys.stdin
        )
        try:
            for answer in answers:
                print(answer.decode(), flush=True)
        except grpc.RpcError:
            pass
        print(answers.code().name, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("serve", "call", "talk"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("--port", type=int, default=50051)
    parser.add_argument("--user", default="")
    options = parser.parse_args()
    if options.verb == "serve":
        serve(options.port)
    elif options.verb == "talk":
        talk(options.address)
    else:
        json.dump(call(options.address, options.user), sys.stdout)
