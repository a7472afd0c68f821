"""Requests and answers, against a real HTTP server."""

import asyncio
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.unit.kube import certificates
from tests.unit.kube.server import ApiServer, config_of, connected, serving, status_object
from tproxy.errors import ClusterError, DeniedError, InvalidError, TproxyError
from tproxy.kube import transport
from tproxy.kube.api import ApiCluster
from tproxy.kube.credentials import Access, tls_context
from tproxy.kube.errors import AlreadyExistsError, NotFoundError, OverloadedError, StaleError
from tproxy.kube.port import DEPLOYMENTS, INTERCEPTS, NODES, PODS, SESSIONS, Resource
from tproxy.kube.portforward import PortForward

PODS_PATH = "/api/v1/namespaces/shop/pods"
INTERCEPTS_PATH = "/apis/tproxy.dev/v1alpha1/namespaces/shop/intercepts"


def pod(name: str, version: str = "1") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": version}}


def test_get_list_create_patch_delete() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            server.objects(PODS_PATH, pod("a"), pod("b"))
            server.answers["POST", INTERCEPTS_PATH] = (201, {"metadata": {"name": "web"}})
            server.answers["PATCH", f"{INTERCEPTS_PATH}/web/status"] = {"patched": True}
            server.answers["DELETE", f"{INTERCEPTS_PATH}/web"] = status_object(200, "", "")

            assert await cluster.get(PODS, "a", "shop") == pod("a")
            listed = await cluster.list(PODS, "shop", labels="app=web,a in (b)", fields="spec.nodeName=n")
            assert listed == [{"apiVersion": "v1", "kind": "Pod"} | pod(name) for name in "ab"]
            await cluster.create(INTERCEPTS, {"spec": {}}, "shop", dry_run=True)
            assert await cluster.patch(INTERCEPTS, "web", {"status": {}}, "shop", "status") == {"patched": True}
            await cluster.delete(INTERCEPTS, "web", "shop", uid="u1")
            await cluster.delete(INTERCEPTS, "gone", "shop")

            _, lists, create, patch, delete, _ = server.seen
            assert lists.query == {
                "labelSelector": "app=web,a in (b)",
                "fieldSelector": "spec.nodeName=n",
                "limit": "500",
            }
            assert create.query == {"fieldManager": "tproxy", "dryRun": "All"}
            assert create.body == {"spec": {}}
            assert create.headers["Content-Type"] == "application/json"
            assert patch.headers["Content-Type"] == "application/merge-patch+json"
            assert delete.body["preconditions"] == {"uid": "u1"}
            assert all(each.headers["User-Agent"].startswith("tproxy/") for each in server.seen)

    asyncio.run(main())


def test_cluster_wide_kinds_and_odd_names() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            server.answers["GET", "/api/v1/nodes/a%2F..%2Fb"] = {}

            async def raw(request: web.Request) -> web.Response:
                return web.json_response({"path": request.rel_url.raw_path})

            server.answers["GET", "/api/v1/nodes/../secrets/x"] = raw
            assert await cluster.get(NODES, "../secrets/x", "ignored") == {"path": "/api/v1/nodes/..%2Fsecrets%2Fx"}

    asyncio.run(main())


def test_lists_are_read_page_by_page() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):

            async def page(request: web.Request) -> web.Response:
                token = request.query.get("continue", "0")
                following = {"0": "1", "1": "2", "2": ""}[token]
                return web.json_response(
                    {"metadata": {"continue": following, "resourceVersion": "7"}, "items": [pod(f"p{token}")]}
                )

            server.answers["GET", "/api/v1/pods"] = page
            assert [each["metadata"]["name"] for each in await cluster.list(PODS)] == ["p0", "p1", "p2"]

    asyncio.run(main())


def test_a_list_that_expires_halfway_is_read_in_one_piece() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):

            async def page(request: web.Request) -> web.Response:
                if "continue" in request.query:
                    return web.json_response(status_object(410, "Expired", "too old"), status=410)
                last = "limit" not in request.query
                metadata = {"continue": "" if last else "x", "resourceVersion": "7"}
                return web.json_response({"metadata": metadata, "items": [pod("a"), pod("b")] if last else [pod("a")]})

            server.answers["GET", PODS_PATH] = page
            assert len(await cluster.list(PODS, "shop")) == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "kind", "message", "hint"),
    [
        (
            (401, status_object(401, "Unauthorized", "Unauthorized")),
            DeniedError,
            "the API server {url} does not accept the credentials",
            "kubectl auth whoami",
        ),
        (
            (403, status_object(403, "Forbidden", 'pods "a" is forbidden: User "x" cannot get resource')),
            DeniedError,
            'you may not get pods in namespace "shop"',
            "`kubectl auth can-i get pods -n shop`",
        ),
        (
            (404, status_object(404, "NotFound", 'pods "a" not found', name="a")),
            NotFoundError,
            'pods "a" not found',
            "",
        ),
        ((404, {}), NotFoundError, 'pods "a" not found in namespace "shop"', ""),
        ((409, status_object(409, "AlreadyExists", "it exists")), AlreadyExistsError, "it exists", ""),
        ((409, status_object(409, "Conflict", "it changed")), StaleError, "it changed", ""),
        (
            (422, status_object(422, "Invalid", "spec.ports: required")),
            InvalidError,
            "the API server refused to get pods: spec.ports: required",
            "",
        ),
        (
            (500, status_object(500, "InternalError", "boom")),
            ClusterError,
            'the API server {url} failed to get pods in namespace "shop": 500 boom',
            "readyz",
        ),
        ((302, {}), ClusterError, 'the API server {url} failed to get pods in namespace "shop": 302 {{}}', "readyz"),
    ],
)
def test_what_errors_say(answer: object, kind: type[TproxyError], message: str, hint: str) -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            server.answers["GET", f"{PODS_PATH}/a"] = answer
            with pytest.raises(kind) as raised:
                await cluster.get(PODS, "a", "shop")
            assert raised.value.message == message.format(url=server.url)
            assert hint in raised.value.hint

    asyncio.run(main())


@pytest.mark.parametrize(
    ("subresource", "namespace", "hint"),
    [
        ("status", "shop", "`kubectl auth can-i patch intercepts.tproxy.dev --subresource=status -n shop`"),
        ("", "shop", "`kubectl auth can-i patch intercepts.tproxy.dev -n shop`"),
        ("", "", "`kubectl auth can-i patch intercepts.tproxy.dev --all-namespaces`"),
    ],
)
def test_denials_name_the_command_that_checks_them(subresource: str, namespace: str, hint: str) -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            place = f"/namespaces/{namespace}" if namespace else ""
            path = f"/apis/tproxy.dev/v1alpha1{place}/intercepts/web" + (f"/{subresource}" if subresource else "")
            server.answers["PATCH", path] = (403, status_object(403, "Forbidden", "User x cannot patch resource y"))
            with pytest.raises(DeniedError) as raised:
                await cluster.patch(INTERCEPTS, "web", {}, namespace, subresource)
            assert hint in raised.value.hint

    asyncio.run(main())


def test_a_denial_names_the_verb_that_is_missing(tmp_path: Path) -> None:
    """A WebSocket is a GET, and since Kubernetes 1.35 it takes `create` too."""

    async def main() -> None:
        async with connected() as (server, cluster):
            denial = 'pods "a" is forbidden: User "x" cannot create resource "pods/portforward" in API group ""'
            server.answers["GET", f"{PODS_PATH}/a/portforward"] = (403, status_object(403, "Forbidden", denial))
            with pytest.raises(DeniedError) as raised:
                await PortForward(cluster, "shop", "a", 1, tmp_path / "f").start()
            assert raised.value.message == 'you may not create pods/portforward in namespace "shop"'
            assert "`kubectl auth can-i create pods --subresource=portforward -n shop`" in raised.value.hint

    asyncio.run(main())


def test_an_admission_policys_reason_is_passed_on() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            server.answers["POST", INTERCEPTS_PATH] = (403, status_object(403, "Forbidden", "user must be yours"))
            with pytest.raises(DeniedError, match=r'you may not create .*"shop": user must be yours'):
                await cluster.create(INTERCEPTS, {}, "shop")

    asyncio.run(main())


def test_a_cluster_without_tproxy() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):

            async def plain(_: web.Request) -> web.Response:
                return web.Response(text="404 page not found\n", status=404)

            server.answers["GET", "/apis/tproxy.dev/v1alpha1/sessions"] = plain
            with pytest.raises(NotFoundError) as raised:
                await cluster.list(SESSIONS)
            assert raised.value.message.startswith("tproxy is not installed in the cluster")
            assert raised.value.hint

    asyncio.run(main())


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"", b"\xff", b"[" * 100_000])
def test_answers_that_are_no_objects(body: bytes) -> None:
    async def main() -> None:
        async with connected() as (server, cluster):

            async def answer(_: web.Request) -> web.Response:
                return web.Response(body=body)

            server.answers["GET", f"{PODS_PATH}/a"] = answer
            with pytest.raises(ClusterError, match="the answer to get pods is no JSON object"):
                await cluster.get(PODS, "a", "shop")

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [{"items": 3, "metadata": {}}, {"items": []}, {"items": [{}], "metadata": {}}, {"items": [3], "metadata": {}}],
)
def test_lists_that_are_none(answer: dict[str, Any]) -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            server.answers["GET", PODS_PATH] = answer
            with pytest.raises(ClusterError, match=r"is no list|is no Pod"):
                await cluster.list(PODS, "shop")

    asyncio.run(main())


def test_an_empty_list_may_be_null() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            server.answers["GET", PODS_PATH] = {"items": None, "metadata": {}}
            assert await cluster.list(PODS, "shop") == []

    asyncio.run(main())


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ANSWER_LIMIT", 1 << 20)

    async def main() -> None:
        async with connected() as (server, cluster):

            async def endless(request: web.Request) -> web.StreamResponse:
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    await response.write(b" " * 65536)

            server.answers["GET", f"{PODS_PATH}/a"] = endless
            with pytest.raises(ClusterError, match="the answer to get pods is larger than 1 MiB"):
                await cluster.get(PODS, "a", "shop")

    asyncio.run(main())


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REQUEST_SECONDS", 0.05)

    async def main() -> None:
        async with connected() as (server, cluster):

            async def silent(_: web.Request) -> web.StreamResponse:
                return await asyncio.Future()

            async def halfway(request: web.Request) -> web.StreamResponse:
                response = web.StreamResponse()
                await response.prepare(request)
                return await asyncio.Future()

            server.answers["GET", f"{PODS_PATH}/silent"] = silent
            server.answers["GET", f"{PODS_PATH}/halfway"] = halfway
            for name in ("silent", "halfway"):
                with pytest.raises(ClusterError, match=r"cannot reach the API server .*: it did not answer in time"):
                    await cluster.get(PODS, name, "shop")

    asyncio.run(main())


def test_a_server_that_is_not_there() -> None:
    async def main() -> None:
        async with serving() as server:
            config = config_of(server)
        cases = {
            config.server: "connection refused",
            "http://no-such-host.invalid:1": "the name no-such-host.invalid cannot be resolved",
        }
        for url, why in cases.items():
            cluster = ApiCluster(replace(config, server=url))
            with pytest.raises(ClusterError) as raised:
                await cluster.get(PODS, "a", "shop")
            await cluster.close()
            assert raised.value.message == f"cannot reach the API server {url}: {why}"
            assert raised.value.hint == "see what `kubectl --context test cluster-info` says"

    asyncio.run(main())


def test_a_server_that_hangs_up() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):

            async def hang_up(request: web.Request) -> web.StreamResponse:
                assert request.transport is not None
                request.transport.abort()
                return await asyncio.Future()

            server.answers["POST", INTERCEPTS_PATH] = hang_up
            with pytest.raises(ClusterError, match=r"it closed the connection|connection reset"):
                await cluster.create(INTERCEPTS, {}, "shop")

    asyncio.run(main())


def test_an_overloaded_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_OVERLOAD_SECONDS", 0.01)

    async def main() -> None:
        async with connected() as (server, cluster):
            left = [2]

            async def busy(_: web.Request) -> web.Response:
                left[0] -= 1
                code = 429 if left[0] >= 0 else 200
                return web.json_response(status_object(code, "TooManyRequests", "later"), status=code)

            server.answers["POST", INTERCEPTS_PATH] = busy
            await cluster.create(INTERCEPTS, {}, "shop")
            left[0] = 100
            with pytest.raises(OverloadedError):
                await cluster.create(INTERCEPTS, {}, "shop")
            assert left[0] == 96

    asyncio.run(main())


def renewing(server: ApiServer, tokens: list[str], renew_at: float | None) -> ApiCluster:
    """A client whose credentials are the next of `tokens` each time they are got."""

    def access() -> Access:
        return Access((("Authorization", f"Bearer {tokens.pop(0)}"), ("Impersonate-Group", "a")), None, renew_at)

    return ApiCluster(replace(config_of(server, access()), renew=access))


def test_refused_credentials_are_got_again_once() -> None:
    async def main() -> None:
        async with serving() as server:

            async def check(request: web.Request) -> web.Response:
                good = request.headers["Authorization"] == "Bearer new"
                return web.json_response({"good": good}, status=200 if good else 401)

            server.answers["GET", f"{PODS_PATH}/a"] = check
            cluster = renewing(server, ["old", "new"], None)
            assert await cluster.get(PODS, "a", "shop") == {"good": True}
            assert server.seen[0].headers["Impersonate-Group"] == "a"
            await cluster.close()

            # Somebody who is not let in does not run a plugin for every request.
            tokens = ["bad"] * 9
            cluster = renewing(server, tokens, None)
            for _ in range(3):
                with pytest.raises(DeniedError):
                    await cluster.get(PODS, "a", "shop")
            assert len(tokens) == 7
            await cluster.close()

    asyncio.run(main())


def test_credentials_are_renewed_when_due_and_only_once_for_many_requests() -> None:
    async def main() -> None:
        async with serving() as server:
            server.answers["GET", f"{PODS_PATH}/a"] = {}
            tokens = ["old", "new", "unused"]
            due = [time.time() - 1, time.time() + 1000]

            def access() -> Access:
                return Access((("Authorization", tokens.pop(0)),), None, due.pop(0))

            cluster = ApiCluster(replace(config_of(server, access()), renew=access))
            await asyncio.gather(*(cluster.get(PODS, "a", "shop") for _ in range(5)))
            await cluster.close()
            assert {each.headers["Authorization"] for each in server.seen} == {"new"}
            assert tokens == ["unused"]

    asyncio.run(main())


def test_a_plugin_that_fails_on_renewal_is_what_is_said() -> None:
    async def main() -> None:
        async with serving() as server:

            def fail() -> Access:
                raise DeniedError("the plugin failed")

            config = replace(config_of(server, Access(renew_at=0.0)), renew=fail)
            cluster = ApiCluster(config)
            with pytest.raises(DeniedError, match="the plugin failed"):
                await cluster.get(PODS, "a", "shop")
            await cluster.close()

    asyncio.run(main())


def test_tls(tmp_path: Path) -> None:
    pem = certificates.make(tmp_path)

    def access(*, authority: bool = True, certificate: bool = True) -> Access:
        return Access(
            tls=tls_context(
                pem.authority.read_bytes() if authority else b"",
                True,
                pem.client.read_bytes() if certificate else b"",
                pem.client_key.read_bytes() if certificate else b"",
                "the test",
            )
        )

    async def main() -> None:
        server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pem.authority))
        server_tls.load_cert_chain(pem.server, pem.server_key)
        server_tls.verify_mode = ssl.CERT_REQUIRED
        async with serving(server_tls) as server:
            server.answers["GET", f"{PODS_PATH}/a"] = {"ok": True}
            cases = [
                (access(), "api.test", ""),
                (access(), None, "its certificate is not trusted"),
                (access(authority=False), "api.test", "its certificate is not trusted"),
                (access(certificate=False), "api.test", "cannot reach"),
            ]
            for credentials, name, says in cases:
                cluster = ApiCluster(replace(config_of(server, credentials), server_name=name))
                if says:
                    with pytest.raises(ClusterError, match=says):
                        await cluster.get(PODS, "a", "shop")
                else:
                    assert await cluster.get(PODS, "a", "shop") == {"ok": True}
                await cluster.close()

    asyncio.run(main())


def test_a_path_in_the_servers_url() -> None:
    async def main() -> None:
        async with serving() as server:
            server.answers["GET", f"/k8s/clusters/c1{PODS_PATH}/a"] = {"ok": True}
            cluster = ApiCluster(replace(config_of(server), server=f"{server.url}/k8s/clusters/c1"))
            assert await cluster.get(PODS, "a", "shop") == {"ok": True}
            await cluster.close()

    asyncio.run(main())


def test_kinds_are_found_by_discovery_once() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            server.answers["GET", "/apis/argoproj.io/v1alpha1"] = {
                "resources": [
                    {"name": "rollouts", "kind": "Rollout", "namespaced": True},
                    {"name": "rollouts/status", "kind": "Rollout", "namespaced": True},
                    {"name": "fleets", "kind": "Fleet", "namespaced": False},
                    "nonsense",
                ]
            }
            rollout = await cluster.resource_for("argoproj.io/v1alpha1", "Rollout")
            assert rollout == Resource("argoproj.io", "v1alpha1", "rollouts", "Rollout")
            assert not (await cluster.resource_for("argoproj.io/v1alpha1", "Fleet")).namespaced
            for _ in range(2):
                with pytest.raises(NotFoundError, match="the cluster does not serve Ghost"):
                    await cluster.resource_for("argoproj.io/v1alpha1", "Ghost")
            with pytest.raises(NotFoundError):
                await cluster.resource_for("nowhere.io/v1", "Ghost")
            assert len(server.seen) == 2
            # Kinds we know are not asked for at all.
            assert await cluster.resource_for("apps/v1", "Deployment") == DEPLOYMENTS
            assert len(server.seen) == 2

    asyncio.run(main())


def test_rights() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
            for status, allowed in (({"allowed": True}, True), ({"allowed": False}, False), ({}, False), (None, False)):
                server.answers["POST", path] = (201, {"status": status})
                assert await cluster.may("create", PODS, "shop", "portforward") is allowed
            assert server.seen[0].body["spec"] == {
                "resourceAttributes": {
                    "verb": "create",
                    "resource": "pods",
                    "subresource": "portforward",
                    "namespace": "shop",
                }
            }

    asyncio.run(main())


def test_who_we_are() -> None:
    async def main() -> None:
        async with connected() as (server, cluster):
            assert await cluster.whoami() == ""
            path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            server.answers["POST", path] = (201, {"status": {"userInfo": {"username": "ada"}}})
            assert await cluster.whoami() == "ada"
            server.answers["POST", path] = (201, {"status": None})
            assert await cluster.whoami() == ""
            server.answers["POST", path] = (500, {})
            with pytest.raises(ClusterError):
                await cluster.whoami()

    asyncio.run(main())
