"""A gRPC server with health checks, and a client of it, both of gRPC's own making.

serve NAME PORT          says `ready` when it listens; whom it is, it says in the answer's metadata
ask ADDRESS AGENT        prints who answered, or the error's code, and how long that took in seconds
"""

import sys
import time
from concurrent import futures

import grpc

CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"


class Health(grpc.GenericRpcHandler):
    """Answers every call."""

    def __init__(self, name: str) -> None:
        self._name = name

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.send_initial_metadata((("who", self._name),))
            return SERVING

        return grpc.unary_unary_rpc_method_handler(answer)


def serve(name: str, port: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Health(name)])
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def ask(address: str, agent: str) -> None:
    options = [("grpc.primary_user_agent", agent), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        began = time.monotonic()
        try:
            answer, call = channel.unary_unary(CHECK).with_call(b"", timeout=5)
        except grpc.RpcError as error:
            who = error.code().name
        else:
            who = dict(call.initial_metadata())["who"] if answer == SERVING else repr(answer)
        print(who, time.monotonic() - began)


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
