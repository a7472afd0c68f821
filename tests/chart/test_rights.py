"""By role, verb and namespace: what the chart allows, at the lab's API server; the lab gives no other rights."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from tproxy_cli import roles as hinted
from tproxy_cli.daemon import cluster as laptop_cluster
from tproxy_cli.doctor import cluster as doctor_cluster

from tests.chart.rendering import Helm, Object, of_kind
from tests.chart.rights import NODE, USERS, VALUES, VIEWER, Case, cases, granted
from tproxy.lab import daemons
from tproxy.lab.api import admission, rbac
from tproxy.lab.api.app import make_app
from tproxy.lab.api.authn import User
from tproxy.lab.api.request import RequestInfo
from tproxy.lab.api.resources import builtin_kinds, custom_kinds
from tproxy.lab.api.store import Store

METHODS = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
    "deletecollection": "DELETE",
}


@pytest.fixture(scope="module")
def objects(helm: Helm) -> list[Object]:
    return [*helm.objects(values=VALUES), VIEWER]


@pytest.fixture(scope="module")
def users(objects: list[Object]) -> Mapping[str, User]:
    return {role: granted(objects, name) for role, name in USERS.items()}


def test_roles_allow_what_they_should_and_no_more(users: Mapping[str, User]) -> None:
    wrong = []
    for case in cases():
        info = RequestInfo(case.verb, case.group, "v1", case.plural, case.namespace, "", case.subresource)
        if users[case.role].may(info) != case.allowed:
            wrong.append(case)
    assert wrong == []


def test_the_table_is_no_smaller_than_the_roles(users: Mapping[str, User]) -> None:
    """A right that is nowhere in the table would never be noticed."""
    known = {case.resource for case in cases()}
    workloads = {"replicasets.apps", "statefulsets.apps", "cronjobs.batch", "replicationcontrollers"}
    for user in users.values():
        assert {resource for rule in user.rules for resource in rule.resources} <= known | workloads
        assert not any("*" in rule.verbs for rule in user.rules)


async def no_dial(namespace: str, pod: str, port: int) -> None:
    raise ConnectionRefusedError


@asynccontextmanager
async def serving(users: Mapping[str, User]) -> AsyncIterator[str]:
    """The lab's API server, where each role's name is its token."""
    store = Store([*builtin_kinds(), *custom_kinds()])
    admission.install(store)
    runner = web.AppRunner(make_app(store, users, no_dial, no_dial, {}))  # type: ignore[arg-type]
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def url(base: str, case: Case) -> str:
    path = f"/apis/{case.group}/{'v1alpha1' if case.group == 'tproxy.dev' else 'v1'}" if case.group else "/api/v1"
    path += f"/namespaces/{case.namespace}" if case.namespace else ""
    path += f"/{case.plural}"
    if case.subresource or case.verb in ("get", "update", "patch", "delete"):
        path += "/some"
    if case.subresource:
        path += f"/{case.subresource}"
    return base + path + ("?watch=1&timeoutSeconds=1" if case.verb == "watch" else "")


def test_the_api_server_answers_requests_by_them(users: Mapping[str, User]) -> None:
    """Each line of the table as requests: 403, or anything but that."""
    told, wrong = asyncio.run(ask_everything(users))
    assert wrong == []
    assert told[True] > 100
    assert told[False] > 1000


async def ask_everything(users: Mapping[str, User]) -> tuple[Counter[bool], list[tuple[Case, int]]]:
    """How many requests were let through and how many not, and those that should not have been."""
    told: Counter[bool] = Counter()
    wrong = []
    async with serving(users) as base, aiohttp.ClientSession() as session:
        for case in cases():
            if case.subresource and case.verb in ("list", "watch", "deletecollection"):
                continue  # no such request
            headers = {"Authorization": f"Bearer {case.role}"}
            async with session.request(METHODS[case.verb], url(base, case), headers=headers) as answer:
                told[answer.status != 403] += 1
                if (answer.status != 403) != case.allowed:
                    wrong.append((case, answer.status))
    return told, wrong


def test_the_lab_gives_its_daemons_and_developers_the_chart_s_rights(users: Mapping[str, User]) -> None:
    def rights(user: User) -> set[tuple[str, str, str]]:
        return {
            (verb, resource, rule.namespace)
            for rule in user.rules
            for verb in rule.verbs
            for resource in rule.resources
        }

    assert daemons.user().name == NODE
    assert rights(daemons.user()) == rights(users["node"])
    assert rights(rbac.developer("dora", "shop")) == rights(users["developer"])


def test_the_command_line_asks_for_no_more_than_developers_have(users: Mapping[str, User]) -> None:
    for verb, resource in (*doctor_cluster.RIGHTS, *laptop_cluster.RIGHTS):
        info = RequestInfo(verb, resource.group, resource.version, resource.plural, "shop")
        assert users["developer"].may(info), info


def test_hints_name_roles_that_the_chart_has(objects: list[Object]) -> None:
    named = [each for kind in ("Role", "ClusterRole") for each in of_kind(objects, kind)]
    roles = {(each["kind"], each["metadata"]["name"]) for each in named}
    assert ("ClusterRole", hinted.DEVELOPER) in roles
    assert ("Role", hinted.REACH_NODES) in roles


def test_roles_join_kubernetes_own(helm: Helm) -> None:
    def joined(values: dict[str, object]) -> dict[str, list[str]]:
        return {
            each["metadata"]["name"]: [
                key.rpartition("-to-")[2] for key in each["metadata"]["labels"] if key.startswith("rbac.")
            ]
            for each in of_kind(helm.objects(values=values), "ClusterRole")
        }

    assert joined({}) == {
        "tproxy-node": [],
        "tproxy-developer": ["edit"],
        "tproxy-admin": ["admin"],
        "tproxy-viewer": ["view"],
        "tproxy-debugger": [],
    }
    assert not any(joined({"rbac": {"aggregate": False}}).values())


def test_nobody_is_bound_until_somebody_says_so(helm: Helm) -> None:
    bindings = [each for each in helm.objects() if each["kind"].endswith("Binding") and "subjects" in each]
    assert {subject["name"] for each in bindings for subject in each["subjects"]} == {"tproxy-node"}
    assert {each["metadata"]["name"] for each in bindings} == {"tproxy-node"}


def test_node_daemons_write_on_pods_only_where_they_are_exposed(helm: Helm) -> None:
    bare = granted(helm.objects(), NODE)
    assert not any("pods/status" in rule.resources for rule in bare.rules)
    for each in (helm.objects(), helm.objects(values=VALUES)):
        for rule in granted(each, NODE).rules:
            if "pods" in rule.resources:
                assert rule.verbs <= {"get", "list", "watch"}
