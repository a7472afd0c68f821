"""A real API server takes the chart's definitions, and refuses what they and the admission policy refuse."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.chart import Release
from tests.e2e.control_plane import ControlPlane
from tests.unit.model import objects
from tproxy.errors import TproxyError
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import INTERCEPTS, SESSIONS
from tproxy.model.intercept import Intercept, NodeState, NodeStatus
from tproxy.model.session import Session

NODE = "system:serviceaccount:tproxy-system:tproxy-node"
Body = Callable[[Callable[[str], ApiCluster]], Awaitable[None]]


@pytest.fixture
def run(plane: ControlPlane, release: Release) -> Callable[[Body], None]:
    """Run a body with a client for each user it asks for; what it made is gone afterwards."""

    @asynccontextmanager
    async def clients() -> AsyncIterator[Callable[[str], ApiCluster]]:
        made: dict[str, ApiCluster] = {}

        def client(user: str) -> ApiCluster:
            if user not in made:
                path = plane.kubeconfig if user == "admin" else plane.kubeconfig_of(user)
                made[user] = ApiCluster(load(str(path), None))
            return made[user]

        try:
            yield client
        finally:
            for resource in (INTERCEPTS, SESSIONS):
                for each in await client("admin").list(resource):
                    await client("admin").delete(resource, each["metadata"]["name"], each["metadata"]["namespace"])
            for cluster in made.values():
                await cluster.close()

    def run(body: Body) -> None:
        async def main() -> None:
            async with clients() as client:
                await body(client)

        asyncio.run(main())

    return run


def doras(uid: str = "laptop") -> Session:
    return objects.session(uid, name="laptop", user="dora")


async def made(cluster: ApiCluster) -> tuple[Session, Intercept]:
    """A Session of dora's and an Intercept of it, as they were stored."""
    session = Session.from_object(await cluster.create(SESSIONS, doras().to_object(), "shop"))
    wanted = objects.intercept("one", session=session.name, session_uid=session.uid)
    return session, Intercept.from_object(await cluster.create(INTERCEPTS, wanted.to_object(), "shop"))


def test_objects_come_back_as_they_were_made(run: Callable[[Body], None]) -> None:
    async def body(client: Callable[[str], ApiCluster]) -> None:
        session, intercept = await made(client("dora"))
        assert session == doras(uid=session.uid)
        wanted = objects.intercept("one", session=session.name, session_uid=session.uid)
        assert intercept == replace(wanted, uid=intercept.uid, created=intercept.created)
        # A node daemon says what has become of it; the developer may not.
        patch = Intercept.status_patch("node1", NodeStatus(NodeState.READY))
        stored = await client(NODE).patch(INTERCEPTS, intercept.name, patch, "shop", "status")
        assert Intercept.from_object(stored).nodes == {"node1": NodeStatus(NodeState.READY)}
        with pytest.raises(TproxyError, match="you may not patch"):
            await client("dora").patch(INTERCEPTS, intercept.name, patch, "shop", "status")

    run(body)


def test_a_deleted_session_takes_its_intercepts_along(run: Callable[[Body], None]) -> None:
    async def body(client: Callable[[str], ApiCluster]) -> None:
        session, intercept = await made(client("dora"))
        await client(NODE).delete(SESSIONS, session.name, "shop", uid=session.uid)
        async with asyncio.timeout(60):
            while True:
                try:
                    await client("dora").get(INTERCEPTS, intercept.name, "shop")
                except NotFoundError:
                    return
                await asyncio.sleep(0.1)

    run(body)


def test_what_is_immutable_stays(run: Callable[[Body], None]) -> None:
    async def body(client: Callable[[str], ApiCluster]) -> None:
        session, intercept = await made(client("dora"))
        changes = (
            (SESSIONS, session.name, {"tokenHash": "1" * 64}, "tokenHash is immutable"),
            (INTERCEPTS, intercept.name, {"target": {"name": "other"}}, "target is immutable"),
            (INTERCEPTS, intercept.name, {"session": "other"}, "session is immutable"),
        )
        for resource, name, spec, said in changes:
            with pytest.raises(TproxyError, match=said):
                await client("dora").patch(resource, name, {"spec": spec}, "shop")
        with pytest.raises(TproxyError, match=r"user is immutable|has to be who makes"):
            await client("dora").patch(SESSIONS, session.name, {"spec": {"user": "ada"}}, "shop")

    run(body)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"ports": []}, "spec.ports"),
        ({"ports": [{"port": 0}]}, "spec.ports\\[0\\].port"),
        ({"ports": [{"port": 80, "protocol": "SCTP"}]}, "Unsupported value"),
        ({"onDisconnect": "hang"}, "spec.onDisconnect"),
        ({"match": {}}, "spec.match"),
        (
            {"match": {"headers": [{"name": "x-user", "type": "RegularExpression", "value": "(("}]}},
            "regular expression|no such overload|evaluat",
        ),
        ({"match": {"path": {"type": "RegularExpression", "value": "(a"}}}, "regular expression|evaluat"),
        ({"match": {"headers": [{"name": "not a name", "value": "x"}]}}, "spec.match.headers\\[0\\].name"),
    ],
)
def test_intercepts_that_make_no_sense(run: Callable[[Body], None], spec: dict[str, Any], said: str) -> None:
    async def body(client: Callable[[str], ApiCluster]) -> None:
        session = Session.from_object(await client("dora").create(SESSIONS, doras().to_object(), "shop"))
        wrong = objects.intercept("two", session=session.name, session_uid=session.uid).to_object()
        wrong["spec"] |= spec
        with pytest.raises(TproxyError, match=said):
            await client("dora").create(INTERCEPTS, wrong, "shop")

    run(body)


def test_a_session_carries_the_name_of_who_makes_it(run: Callable[[Body], None]) -> None:
    async def body(client: Callable[[str], ApiCluster]) -> None:
        # The policy takes a moment to be known.
        forged = replace(doras(), user="ada", name="forged")
        said = ""
        async with asyncio.timeout(60):
            while not said:
                try:
                    await client("dora").create(SESSIONS, forged.to_object(), "shop")
                    await client("admin").delete(SESSIONS, "forged", "shop")
                    await asyncio.sleep(0.2)
                except TproxyError as error:
                    said = error.message
        assert "spec.user has to be who makes the Session: dora, not ada" in said
        session, _ = await made(client("dora"))
        later = Session.renew_patch(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=1))
        await client("dora").patch(SESSIONS, session.name, later, "shop")
        # Keeping somebody else's Session alive is nobody's business, an administrator's neither; metadata are.
        with pytest.raises(TproxyError, match="has to be who makes the Session: ada, not dora"):
            await client("ada").patch(SESSIONS, session.name, Session.renew_patch(datetime.now(UTC)), "shop")
        await client("ada").patch(SESSIONS, session.name, {"metadata": {"labels": {"seen": "yes"}}}, "shop")
        await client("ada").delete(SESSIONS, session.name, "shop")

    run(body)


def test_the_policy_s_expressions_are_understood(plane: ControlPlane, release: Release) -> None:
    """The controller manager checks their types against the definition."""
    policy = ("get", "validatingadmissionpolicy", "tproxy-session-user", "-o")
    plane.wait("types checked", *policy, "jsonpath={.status.observedGeneration}", until="1")
    assert plane.kubectl(*policy, "jsonpath={.status.typeChecking.expressionWarnings}").stdout == ""


def test_people_see_columns(plane: ControlPlane, run: Callable[[Body], None]) -> None:
    async def body(client: Callable[[str], ApiCluster]) -> None:
        await made(client("dora"))
        listed = await asyncio.to_thread(plane.kubectl, "get", "intercepts,sessions", "-n", "shop")
        for word in ("KIND", "TARGET", "PORTS", "Deployment", "80", "USER", "dora", "HOST"):
            assert word in listed.stdout

    run(body)
