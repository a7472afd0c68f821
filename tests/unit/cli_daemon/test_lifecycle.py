"""What happens to intercepts over time: lost tunnels, a restarted daemon, sleep, and what others do in the cluster."""

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tproxy_cli.daemon import clock
from tproxy_cli.daemon.server import Server

from tests.unit.cli_daemon.harness import Laptop, Stage, local_app, staged, until
from tproxy.errors import InvalidError
from tproxy.kube.port import INTERCEPTS, PODS, SESSIONS


def _shown(laptop: Laptop) -> list[tuple[str, str]]:
    return [(one["state"], one["message"]) for cluster in laptop.engine.status() for one in cluster["intercepts"]]


def _steers(stage: Stage, node: str = "node1") -> Callable[[], bool]:
    return lambda: bool(stage.nodes[node].steered)


def _replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


async def _answers(stage: Stage) -> None:
    client = stage.nodes["node1"].connect()
    client.conn.write(b"hello")
    await until(lambda: client.received == b"from the laptop", "an answer of the local app")
    client.conn.write_eof()
    await until(lambda: client.ended, "the end")


def test_a_restarted_node_daemon_gets_its_tunnel_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", str(port))
            await stage.nodes["node1"].stop()
            await until(lambda: laptop.engine.status()[0]["nodes"][0]["state"] != "connected", "the loss")
            assert _shown(laptop)[0][0] == "Pending"
            assert _shown(laptop)[0][1], "status says why"
            for pod in stage.store.list(PODS, "tproxy-system"):
                stage.store.delete(PODS, pod["metadata"]["name"], "tproxy-system")
            await stage.add_daemon("node1")
            await until(_steers(stage), "steering again")
            await _answers(stage)
            await until(lambda: _shown(laptop)[0][0] == "Ready", "Ready")

    asyncio.run(run())


def test_a_restarted_laptop_daemon_resumes(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            first = stage.laptop()
            result = await first.intercept("web", str(port))
            await first.engine.suspend()
            await until(lambda: not stage.nodes["node1"].steered, "the pod serving by itself", seconds=1)
            assert len(stage.store.list(INTERCEPTS)) == len(stage.store.list(SESSIONS)) == 1

            second = stage.laptop()
            assert not second.engine.idle
            await until(_steers(stage), "steering again")
            await _answers(stage)
            # Whoever asks while it is being taken up gets the same intercept, not a conflict with himself.
            again = await second.intercept("web", str(port))
            assert (again["name"], again["created"]) == (result["name"], False)
            assert (await second.leave("web"))["left"][0]["name"] == result["name"]
            assert not stage.store.list(SESSIONS)

    asyncio.run(run())


def test_what_is_gone_is_not_resumed(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            first = stage.laptop()
            result = await first.intercept("web")
            await first.engine.suspend()
            stage.store.delete(INTERCEPTS, result["name"], "shop")
            second = stage.laptop()
            await until(lambda: not stage.store.list(SESSIONS), "the end of the empty session")
            await until(lambda: second.engine.idle, "nothing held")
            assert json.loads((tmp_path / "ann.json").read_text())["sessions"] == []

    asyncio.run(run())


def test_a_crash_before_anything_was_created(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            first = stage.laptop()
            await first.intercept("web")
            await first.engine.suspend()
            path = tmp_path / "ann.json"
            document = json.loads(path.read_text())
            document["sessions"][0] |= {"uid": "", "name": "never-created"}
            document["sessions"][0]["intercepts"][0] |= {"uid": "", "name": "web-0000"}
            path.write_text(json.dumps(document))
            second = stage.laptop()
            await until(lambda: second.engine.idle, "nothing held")
            assert second.engine.status() == []

    asyncio.run(run())


def test_a_saved_session_whose_token_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            first = stage.laptop()
            await first.intercept("web")
            await first.engine.suspend()
            path = tmp_path / "ann.json"
            document = json.loads(path.read_text())
            document["sessions"][0]["token"] = "00" * 32
            path.write_text(json.dumps(document))
            second = stage.laptop()
            await until(lambda: second.engine.idle, "nothing held")
            assert len(stage.store.list(INTERCEPTS)) == 1

    asyncio.run(run())


def test_an_intercept_deleted_by_others_stays_deleted(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            result = await laptop.intercept("web")
            stage.store.delete(INTERCEPTS, result["name"], "shop")
            await until(lambda: _shown(laptop) and _shown(laptop)[0][0] == "Lost", "status to say so")
            assert "deleted in the cluster" in _shown(laptop)[0][1]
            assert [one["state"] for one in await laptop.list()] == ["Lost"]
            await until(lambda: not stage.store.list(SESSIONS), "the end of the empty session")
            assert not stage.store.list(INTERCEPTS)
            assert (await laptop.leave("web"))["left"][0]["name"] == result["name"]
            assert _shown(laptop) == []

    asyncio.run(run())


def test_a_deleted_session_takes_its_intercepts_along(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            await laptop.intercept("web")
            [session] = stage.store.list(SESSIONS)
            stage.store.delete(SESSIONS, session["metadata"]["name"], "shop")
            await until(lambda: _shown(laptop) and _shown(laptop)[0][0] == "Lost", "status to say so")
            assert "Session" in _shown(laptop)[0][1]
            await until(lambda: laptop.engine.idle, "nothing held")
            result = await laptop.intercept("web")
            assert result["created"]
            assert [state for state, _ in _shown(laptop)] == ["Ready"], "the lost one is history"

    asyncio.run(run())


def test_what_expired_in_our_sleep_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop()
            result = await laptop.intercept("web", str(port))
            [before] = stage.store.list(SESSIONS)
            real = clock.seconds_since_boot
            for module in ("clock", "objects", "session"):
                monkeypatch.setattr(f"tproxy_cli.daemon.{module}.seconds_since_boot", lambda: real() + 7200)
            stage.store.delete(SESSIONS, before["metadata"]["name"], "shop")

            def made_anew() -> bool:
                sessions = stage.store.list(SESSIONS)
                return bool(sessions) and sessions[0]["metadata"]["uid"] != before["metadata"]["uid"]

            await until(made_anew, "a new session")
            await until(lambda: _shown(laptop) and _shown(laptop)[0][0] == "Ready", "Ready again")
            assert "expired" in _shown(laptop)[0][1]
            assert [each["metadata"]["name"] for each in stage.store.list(INTERCEPTS)] == [result["name"]]
            await _answers(stage)

    asyncio.run(run())


def test_after_sleep_everything_is_connected_anew(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", str(port))
            [before] = stage.nodes["node1"].sessions.streams()
            laptop.engine._woke(3600.0)
            await until(lambda: stage.nodes["node1"].sessions.streams() not in ([], [before]), "a new stream")
            await until(_steers(stage), "steering")
            await _answers(stage)
            stage.add_pod("web-9", "node1")  # the watch works as well
            await until(lambda: laptop.engine.status()[0]["intercepts"][0]["pods"]["total"] == 2, "the new pod")

    asyncio.run(run())


def test_the_session_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tproxy_cli.daemon.session.UPKEEP_SECONDS", 0.05)

    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            await laptop.intercept("web")

            def renew_time() -> str:
                return str(stage.store.list(SESSIONS)[0]["spec"]["renewTime"])

            before = renew_time()
            real = clock.seconds_since_boot
            for module in ("objects", "session"):
                monkeypatch.setattr(f"tproxy_cli.daemon.{module}.seconds_since_boot", lambda: real() + 1201)
            await until(lambda: renew_time() != before, "the renewal")
            renewed = renew_time()
            await asyncio.sleep(0.2)
            assert renew_time() == renewed, "once in a third of its ttl is enough"

    asyncio.run(run())


def test_what_a_lost_daemon_left_can_be_left(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            lost = stage.laptop(state="lost")
            result = await lost.intercept("web")
            await lost.engine.suspend()

            other = stage.laptop("bob")
            with pytest.raises(InvalidError):
                await other.leave(result["name"])
            assert len(stage.store.list(INTERCEPTS)) == 1

            laptop = stage.laptop(state="fresh")
            assert [one["mine"] for one in await laptop.list()] == [False]
            assert (await laptop.leave("web"))["left"][0]["name"] == result["name"]
            assert not stage.store.list(INTERCEPTS)
            assert not stage.store.list(SESSIONS)

    asyncio.run(run())


def test_another_laptop_of_the_same_user_is_meant_only_by_name(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            elsewhere = stage.laptop(state="elsewhere")
            await elsewhere.intercept("web")
            [cluster] = elsewhere.engine._clusters.all()
            [session] = stage.store.list(SESSIONS)
            await elsewhere.engine.suspend()
            stage.store.patch(SESSIONS, session["metadata"]["name"], {"spec": {"renewTime": None}}, "shop")
            laptop = stage.laptop(state="here")
            await laptop.list()
            [here] = laptop.engine._clusters.all()
            here.host = "another-host"
            with pytest.raises(InvalidError):
                await laptop.leave("web")
            assert (await laptop.leave(everything=True))["left"] == []
            [intercept] = stage.store.list(INTERCEPTS)
            assert (await laptop.leave(intercept["metadata"]["name"]))["left"]
            assert cluster.host != here.host

    asyncio.run(run())


def test_quit_leaves_everything(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", str(port))
            client = stage.nodes["node1"].connect()
            await until(lambda: client.opened, "a connection")
            assert await laptop.engine.quit() == 1
            assert not stage.store.list(INTERCEPTS)
            assert not stage.store.list(SESSIONS)
            await until(lambda: client.reset is not None, "the connection's end", seconds=1)
            await until(lambda: not stage.nodes["node1"].steered, "the pod serving by itself", seconds=1)
            assert json.loads((tmp_path / "ann.json").read_text())["sessions"] == []

    asyncio.run(run())


def test_other_credentials_are_taken_up(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", str(port))
            _replace(Path(stage.kubeconfig("ann")), "token: ann", "token: bob ")
            result = await laptop.intercept("web", str(port))
            assert not result["created"]
            [cluster] = laptop.engine._clusters.all()
            assert await cluster.user() == "bob"
            stage.add_pod("web-9", "node1")
            await until(lambda: laptop.engine.status()[0]["intercepts"][0]["pods"]["total"] == 2, "the watch going on")

    asyncio.run(run())


def test_another_current_context_leaves_tunnels_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage, local_app() as port:
            laptop = stage.laptop()
            await laptop.intercept("web", str(port))
            [before] = stage.nodes["node1"].sessions.streams()
            _replace(Path(stage.kubeconfig("ann")), "namespace: shop", "namespace: elsewhere")
            assert await laptop.list() == []
            with pytest.raises(InvalidError) as caught:
                await laptop.leave("web")
            assert "tproxy leave web -n shop" in caught.value.hint
            assert stage.nodes["node1"].sessions.streams() == [before]
            assert (await laptop.leave(everything=True))["left"], "all means all namespaces"

    asyncio.run(run())


def test_what_was_deleted_in_our_sleep_is_noticed(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            result = await laptop.intercept("web")
            stage.store.delete(INTERCEPTS, result["name"], "shop")
            laptop.engine._woke(60.0)  # before the old watch could tell
            await until(lambda: _shown(laptop) and _shown(laptop)[0][0] == "Lost", "status to say so")

    asyncio.run(run())


def test_a_daemon_that_stops_undoes_what_is_half_done(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            stage.nodes["node1"].silent = True
            engine = stage.laptop().engine
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(tmp_path / "socket"))
                listener.listen()
                server = Server(engine)
                serving = asyncio.get_running_loop().create_task(server.serve(listener))
                body = json.dumps(
                    {"cluster": {"kubeconfig": stage.kubeconfig("ann")}, "target": "web", "ports": ["3000"]}
                )
                reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
                head = f"POST /v1/intercept HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body.encode())
                await until(lambda: stage.store.list(INTERCEPTS), "the object")
                signal.raise_signal(signal.SIGTERM)
                async with asyncio.timeout(10):
                    await serving
                assert stage.store.list(INTERCEPTS) == stage.store.list(SESSIONS) == []
                writer.close()
                await reader.read()

    asyncio.run(run())


def test_objects_that_make_no_sense_disturb_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            result = await laptop.intercept("web")
            for resource in (SESSIONS, INTERCEPTS):
                for each in list(stage.store._tables[resource].objects.values()):
                    broken = json.loads(json.dumps(each))
                    broken["metadata"] |= {"name": "broken", "uid": "broken"}
                    broken["spec"] = {"ports": "none"}
                    stage.store._tables[resource].objects["shop", "broken"] = broken
            assert [one["name"] for one in await laptop.list()] == [result["name"]]
            assert (await laptop.leave("web"))["left"]

    asyncio.run(run())


def test_a_daemon_with_nothing_to_do_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tproxy_cli.daemon.server.IDLE_SECONDS", 0.5)
    monkeypatch.setattr("tproxy_cli.daemon.server.IDLE_LOOK_SECONDS", 0.02)

    async def run() -> None:
        async with staged(tmp_path) as stage:
            laptop = stage.laptop()
            await laptop.intercept("web")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(tmp_path / "socket"))
                listener.listen()
                serving = asyncio.get_running_loop().create_task(Server(laptop.engine).serve(listener))
                done, _ = await asyncio.wait([serving], timeout=0.8)
                assert not done, "it holds a session"
                await laptop.leave("web")
                async with asyncio.timeout(5):
                    await serving

    asyncio.run(run())
