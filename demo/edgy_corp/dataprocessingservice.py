"""Edgy Corp's data processing service: the colour at `/color`, a summary of the records at `/summary`.

In the cluster COLOR says green. On a laptop nobody sets it, and the default below is what you see: change it, save
the file, and with --reload the service says the new one.
"""

import argparse
import os

from web import Request, Response, UpstreamError, fetch_json, serve, with_reload

DEFAULT_COLOR = "blue"

DATASTORE = os.environ.get("DATASTORE", "http://verylargedatastore:8080")


def answer(request: Request) -> Response:
    """Answer `/color` and `/summary`."""
    if request.path == "/color":
        return Response.json(os.environ.get("COLOR", DEFAULT_COLOR))
    if request.path == "/summary":
        try:
            records = fetch_json(f"{DATASTORE}/records", request.forwarded())
        except UpstreamError as error:
            return Response.json({"error": str(error)}, status=503)
        return Response.json({"customers": len(records), "orders": sum(record["orders"] for record in records)})
    return Response.not_found(request)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--reload", action="store_true", help="start afresh whenever this file changes")
    options = parser.parse_args()
    if options.reload:
        with_reload(__file__)
    serve(answer, options.port)
