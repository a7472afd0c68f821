"""The gRPC server of `calls.py`: one unary method that sends back what it got."""

import argparse
import asyncio
from typing import Any

import grpc.aio
import uvloop


class Echo(grpc.GenericRpcHandler):
    """`/bench.Echo/Call`."""

    def service(self, handler_call_details: Any) -> Any:
        """Every method is that one."""

        async def call(sent: bytes, context: Any) -> bytes:
            return sent

        return grpc.unary_unary_rpc_method_handler(call)


async def main(port: int) -> None:
    """Serve."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(f"[::]:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.install()
    asyncio.run(main(parser.parse_args().port))
