"""Figures of requests on their way from the nodes to `tproxy status`."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tproxy_node.personal.figures import Figures
from tproxy_node.personal.tally import PortTally, Tally

from tests.unit.cli_daemon.harness import staged
from tproxy.http.port import Choice
from tproxy.model.figures import Outcome

MINE = {"headers": ["x-user=ann"]}


def test_status_tells_what_became_of_requests_on_all_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tproxy_cli.daemon.figures.WAIT_SECONDS", 0.5)

    async def run() -> None:
        async with staged(tmp_path, ("node1", "node2"), pods=2) as stage:
            laptop = stage.laptop()
            await laptop.intercept("web", http=MINE)

            async def shown() -> Any:
                await laptop.engine.ask_nodes()
                return laptop.engine.status()[0]["intercepts"][0]

            one = await shown()
            assert one["match"] == {"headers": [{"name": "x-user", "type": "Exact", "value": "ann"}]}
            assert one["requests"] is None, "these nodes do not know how to tell"
            uid = next(iter(laptop.engine._sessions()[0].held.values())).saved.uid
            for name, node in stage.nodes.items():
                tally = Tally()
                port = PortTally(tally)
                port.set_intercepts([uid])
                port.record(Outcome.PASSED, None, 200, 0.1)
                port.record(Outcome.MATCHED, Choice(uid), 200, 0.002)
                if name == "node2":
                    port.record(Outcome.FAILED, Choice(uid), 502, 0.002)
                Figures(lambda _: [uid], tally.requests).serve_in(node.openings)
            requests = (await shown())["requests"]
            counts = {name: requests[name] for name in ("matched", "passed", "fallback", "failed")}
            assert counts == {"matched": 2, "passed": 2, "fallback": 0, "failed": 1}
            assert 0.001 <= requests["p50Seconds"] <= 0.0025
            # What was known of a node stays when it cannot be asked.
            await stage.nodes["node2"].sessions.close()
            assert (await shown())["requests"]["failed"] == 1

    asyncio.run(run())
