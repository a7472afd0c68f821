"""Edgy Corp's web page, in truth not so large and not Java: shows the colour and the data of the other two.

Incoming `x-*` and `baggage` headers are passed on, so a choice made at the edge travels with the request.
"""

import argparse
import html
import os
from typing import Any

from web import Request, Response, UpstreamError, fetch_json, serve

PROCESSING = os.environ.get("PROCESSING", "http://dataprocessingservice:3000")
DATASTORE = os.environ.get("DATASTORE", "http://verylargedatastore:8080")

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Edgy Corp</title>
<style>
  body {{ font-family: system-ui, sans-serif; margin: 3rem; }}
  header {{ background: {color}; color: white; padding: 2rem; border-radius: .5rem; }}
  td, th {{ padding: .25rem 1.5rem .25rem 0; text-align: left; }}
</style>
</head>
<body>
<header><h1>Edgy Corp</h1><p>The data processing service says: <strong id="color">{color}</strong></p></header>
<p id="summary">{summary}</p>
<table><tr><th>Customer</th><th>Orders</th></tr>
{rows}
</table>
</body>
</html>
"""


def _ask(url: str, headers: dict[str, str]) -> Any:
    try:
        return fetch_json(url, headers)
    except UpstreamError as error:
        return {"error": str(error)}


def answer(request: Request) -> Response:
    """Answer `/` with the page, `/healthz` for the probes."""
    if request.path == "/healthz":
        return Response.json("ok")
    if request.path != "/":
        return Response.not_found(request)
    headers = request.forwarded()
    color = _ask(f"{PROCESSING}/color", headers)
    summary = _ask(f"{PROCESSING}/summary", headers)
    records = _ask(f"{DATASTORE}/records", headers)
    rows = records if isinstance(records, list) else []
    page = PAGE.format(
        color=html.escape(color if isinstance(color, str) else "gray"),
        summary=html.escape(", ".join(f"{name}: {value}" for name, value in summary.items())),
        rows="\n".join(f"<tr><td>{html.escape(row['customer'])}</td><td>{row['orders']}</td></tr>" for row in rows),
    )
    return Response(page.encode(), "text/html; charset=utf-8", 200 if isinstance(color, str) else 502)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    serve(answer, parser.parse_args().port)
