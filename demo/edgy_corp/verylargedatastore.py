"""Edgy Corp's very large data store: the records, at `/records`."""

import argparse

from web import Request, Response, serve

RECORDS = [
    {"id": 1, "customer": "Ada", "orders": 12},
    {"id": 2, "customer": "Grace", "orders": 7},
    {"id": 3, "customer": "Edsger", "orders": 23},
]


def answer(request: Request) -> Response:
    """Answer `/records`."""
    if request.path == "/records":
        return Response.json(RECORDS)
    return Response.not_found(request)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    serve(answer, parser.parse_args().port)
