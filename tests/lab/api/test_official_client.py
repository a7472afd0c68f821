"""The official Python client against the lab's API server."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ProtocolError

from tproxy.kube.port import CONFIGMAPS

from .conftest import HISTORY, Server

GROUP = ("tproxy.dev", "v1alpha1", "default")
SESSION = {
    "apiVersion": "tproxy.dev/v1alpha1",
    "kind": "Session",
    "metadata": {"name": "laptop"},
    "spec": {
        "tokenHash": hashlib.sha256(b"t").hexdigest(),
        "user": "dora",
        "host": "laptop",
        "renewTime": "2026-01-02T03:04:05Z",
        "ttlSeconds": 3600,
    },
}


def intercept(owner_uid: str = "") -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "web-1"}
    if owner_uid:
        owner = {"apiVersion": "tproxy.dev/v1alpha1", "kind": "Session", "name": "laptop", "uid": owner_uid}
        metadata["ownerReferences"] = [owner]
    spec = {"session": "laptop", "target": {"kind": "Deployment", "name": "web"}, "ports": [{"port": 80}]}
    return {"apiVersion": "tproxy.dev/v1alpha1", "kind": "Intercept", "metadata": metadata, "spec": spec}


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def connect(server: Server, user: str = "admin") -> client.ApiClient:
    configuration = client.Configuration(host=server.url)
    configuration.api_key["authorization"] = f"Bearer {user}-token"
    configuration.retries = False
    return client.ApiClient(configuration)


@pytest.fixture
def api(server: Server) -> Iterator[client.ApiClient]:
    with connect(server) as connected:
        yield connected


@pytest.fixture
def core(api: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(api)


@pytest.fixture
def custom(api: client.ApiClient) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(api)


def refusal(error: ApiException) -> dict[str, Any]:
    """The Status body of a failure."""
    body: dict[str, Any] = json.loads(error.body)
    assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", error.status)
    return body


def test_objects_live_and_die(core: client.CoreV1Api) -> None:
    created = core.create_namespaced_pod("default", pod("a", app="web"))
    assert created.status.phase == "Pending"
    assert core.read_namespaced_pod("a", "default").metadata.uid == created.metadata.uid
    patched = core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"tier": "front"}}})
    assert patched.metadata.labels == {"app": "web", "tier": "front"}
    patched.metadata.labels["tier"] = "back"
    replaced = core.replace_namespaced_pod("a", "default", patched)
    assert replaced.metadata.labels["tier"] == "back"
    with pytest.raises(ApiException) as refused:
        core.replace_namespaced_pod("a", "default", patched)
    assert (refused.value.status, refusal(refused.value)["reason"]) == (409, "Conflict")
    core.delete_namespaced_pod("a", "default")
    with pytest.raises(ApiException) as refused:
        core.read_namespaced_pod("a", "default")
    body = refusal(refused.value)
    assert (body["reason"], body["message"]) == ("NotFound", 'pods "a" not found')
    assert body["details"] == {"name": "a", "kind": "pods"}


def test_lists_by_selector(core: client.CoreV1Api) -> None:
    for name in ("a", "b", "c"):
        core.create_namespaced_pod("default", pod(name, app=name))
    core.create_namespaced_pod("kube-system", pod("other", app="a"))
    listed = core.list_pod_for_all_namespaces(label_selector="app in (a, b)", limit=2)
    assert {item.metadata.name for item in listed.items} == {"a", "b", "other"}
    assert int(listed.metadata.resource_version) > 0
    only = core.list_namespaced_pod("default", field_selector="metadata.name=c,status.phase=Pending")
    assert [item.metadata.name for item in only.items] == ["c"]
    with pytest.raises(ApiException) as refused:
        core.list_namespaced_pod("default", field_selector="spec.color=red")
    assert refusal(refused.value)["reason"] == "BadRequest"
    assert refused.value.status == 400


def test_typed_objects_come_back_whole(server: Server, api: client.ApiClient, core: client.CoreV1Api) -> None:
    labels = {"app": "web"}
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="i")]),
    )
    spec = client.V1DeploymentSpec(replicas=2, selector=client.V1LabelSelector(match_labels=labels), template=template)
    apps = client.AppsV1Api(api)
    apps.create_namespaced_deployment(
        "default", client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec)
    )
    ports = [client.V1ServicePort(port=80, target_port=8080)]
    service = core.create_namespaced_service(
        "default",
        client.V1Service(
            metadata=client.V1ObjectMeta(name="web"), spec=client.V1ServiceSpec(selector=labels, ports=ports)
        ),
    )
    assert service.spec.cluster_ip.startswith("10.96.")
    events = watch.Watch().stream(
        apps.list_namespaced_deployment, "default", field_selector="metadata.name=web", timeout_seconds=10
    )
    states = (event["object"].status for event in events)
    assert any(status is not None and status.updated_replicas == 2 for status in states)
    scaled = apps.patch_namespaced_deployment_scale("web", "default", {"spec": {"replicas": 0}})
    assert scaled.spec.replicas == 0
    families = set()
    discovery = client.DiscoveryV1Api(api)
    for event in watch.Watch().stream(discovery.list_namespaced_endpoint_slice, "default", timeout_seconds=10):
        families.add(event["object"].address_type)
        if len(families) == 2:
            break
    assert families == {"IPv4", "IPv6"}


def test_custom_objects_are_held_to_their_schema(custom: client.CustomObjectsApi) -> None:
    custom.create_namespaced_custom_object(*GROUP, "sessions", SESSION)
    created = custom.create_namespaced_custom_object(*GROUP, "intercepts", intercept())
    assert created["spec"]["onDisconnect"] == "fallback"
    assert created["spec"]["ports"] == [{"port": 80, "protocol": "TCP"}]
    change = {"spec": {"target": {"name": "api"}}, "status": {"nodes": {}}}
    with pytest.raises(ApiException) as refused:
        custom.patch_namespaced_custom_object(*GROUP, "intercepts", "web-1", change)
    body = refusal(refused.value)
    assert (body["code"], body["reason"]) == (422, "Invalid")
    assert body["details"]["causes"][0]["field"] == "spec.target"
    assert "target is immutable" in body["message"]
    unknown = intercept() | {"metadata": {"name": "web-2"}, "colour": "red"}
    with pytest.raises(ApiException) as refused:
        custom.create_namespaced_custom_object(*GROUP, "intercepts", unknown, field_validation="Strict")
    assert 'unknown field "colour"' in refusal(refused.value)["message"]
    assert "colour" not in custom.create_namespaced_custom_object(*GROUP, "intercepts", unknown)
    status = {"status": {"nodes": {"node1": {"state": "Ready"}}}, "spec": {"onDisconnect": "fail"}}
    patched = custom.patch_namespaced_custom_object_status(*GROUP, "intercepts", "web-1", status)
    assert patched["status"]["nodes"] == {"node1": {"state": "Ready"}}
    assert patched["spec"]["onDisconnect"] == "fallback"
    with pytest.raises(ApiException) as refused:
        custom.patch_namespaced_custom_object_status(
            *GROUP, "intercepts", "web-1", {"status": {"nodes": {"node1": {"state": "Tired"}}}}
        )
    assert refused.value.status == 422


def test_dependents_go_with_their_owner(server: Server, custom: client.CustomObjectsApi) -> None:
    owner = custom.create_namespaced_custom_object(*GROUP, "sessions", SESSION)
    custom.create_namespaced_custom_object(*GROUP, "intercepts", intercept(owner["metadata"]["uid"]))
    custom.delete_namespaced_custom_object(
        *GROUP, "sessions", "laptop", body={"preconditions": {"uid": owner["metadata"]["uid"]}}
    )
    events = watch.Watch().stream(
        custom.list_namespaced_custom_object, *GROUP, "intercepts", timeout_seconds=1, allow_watch_bookmarks=False
    )
    remaining = set()
    for event in events:
        name = event["object"]["metadata"]["name"]
        remaining.discard(name) if event["type"] == "DELETED" else remaining.add(name)
    assert remaining == set()


def test_delete_keeps_to_preconditions_and_dry_run(core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("default", pod("a"))
    with pytest.raises(ApiException) as refused:
        core.delete_namespaced_pod("a", "default", body={"preconditions": {"uid": "another"}})
    assert refused.value.status == 409
    core.delete_namespaced_pod("a", "default", dry_run="All")
    core.delete_namespaced_pod("a", "default", body=client.V1DeleteOptions(dry_run=["All"]))
    assert len(core.list_namespaced_pod("default").items) == 1
    core.create_namespaced_pod("default", pod("b"), dry_run="All")
    core.delete_collection_namespaced_pod("default")
    assert core.list_namespaced_pod("default").items == []


def test_a_watch_goes_on_where_the_list_ended(core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("default", pod("before", app="x"))
    version = core.list_namespaced_pod("default").metadata.resource_version
    core.create_namespaced_pod("default", pod("a", app="x"))
    core.create_namespaced_pod("default", pod("unseen", app="y"))
    core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"app": "y"}}})
    core.patch_namespaced_pod("unseen", "default", {"metadata": {"labels": {"app": "x"}}})
    core.delete_namespaced_pod("before", "default")
    events = watch.Watch().stream(
        core.list_namespaced_pod, "default", label_selector="app=x", resource_version=version, timeout_seconds=1
    )
    seen = [(event["type"], event["object"].metadata.name) for event in events]
    assert seen == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "unseen"), ("DELETED", "before")]


def test_a_version_that_is_too_old_is_gone(server: Server, core: client.CoreV1Api) -> None:
    old = core.list_namespaced_config_map("default").metadata.resource_version

    def churn(store: Any) -> None:
        for number in range(HISTORY + 1):
            store.create(CONFIGMAPS, {"metadata": {"name": f"c{number}"}})

    server.call(churn)
    for version in (old, "999999"):
        with pytest.raises(ApiException) as refused:
            list(
                watch.Watch().stream(
                    core.list_namespaced_config_map, "default", resource_version=version, timeout_seconds=5
                )
            )
        assert refused.value.status == 410


def test_a_watch_ends_with_a_bookmark(core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("default", pod("a"))
    answer = core.list_namespaced_pod(
        "default", watch=True, allow_watch_bookmarks=True, timeout_seconds=1, _preload_content=False
    )
    lines = [json.loads(line) for line in answer.data.splitlines()]
    assert [line["type"] for line in lines] == ["ADDED", "BOOKMARK"]
    bookmark = lines[1]["object"]
    version = core.list_namespaced_pod("default").metadata.resource_version
    assert (bookmark["kind"], bookmark["metadata"]["resourceVersion"]) == ("Pod", version)


def test_initial_events_are_marked_as_such(core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("default", pod("a"))
    answer = core.list_namespaced_pod(
        "default",
        watch=True,
        allow_watch_bookmarks=True,
        send_initial_events=True,
        resource_version_match="NotOlderThan",
        timeout_seconds=1,
        _preload_content=False,
    )
    lines = [json.loads(line) for line in answer.data.splitlines()]
    assert [line["type"] for line in lines] == ["ADDED", "BOOKMARK", "BOOKMARK"]
    assert lines[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_users_have_their_rights(server: Server) -> None:
    with connect(server, "dora") as api:
        core = client.CoreV1Api(api)
        assert core.list_namespaced_pod("default").items == []
        with pytest.raises(ApiException) as refused:
            core.create_namespaced_pod("default", pod("a"))
        body = refusal(refused.value)
        assert (body["code"], body["reason"]) == (403, "Forbidden")
        assert body["message"] == (
            'pods is forbidden: User "dora" cannot create resource "pods" in API group "" in the namespace "default"'
        )
        attributes = client.V1ResourceAttributes(
            namespace="default", verb="create", group="tproxy.dev", resource="intercepts"
        )
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        )
        authorization = client.AuthorizationV1Api(api)
        assert authorization.create_self_subject_access_review(review).status.allowed is True
        attributes.namespace = "kube-system"
        assert authorization.create_self_subject_access_review(review).status.allowed is False
        me = client.AuthenticationV1Api(api).create_self_subject_review({})
        assert me.status.user_info.username == "dora"
    with connect(server) as api, pytest.raises(ApiException) as refused:
        client.CoreV1Api(api).list_namespaced_pod("default", _headers={"Impersonate-User": "dora"})
    assert "cannot impersonate" in refusal(refused.value)["message"]
    with connect(server, "nemo") as api, pytest.raises(ApiException) as refused:
        client.CoreV1Api(api).list_namespaced_pod("default")
    assert refused.value.status == 403
    with connect(server, "unknown") as api, pytest.raises(ApiException) as refused:
        client.CoreV1Api(api).list_namespaced_pod("default")
    assert (refused.value.status, refusal(refused.value)["reason"]) == (401, "Unauthorized")


def test_bodies_that_make_no_sense(server: Server, api: client.ApiClient, core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("default", pod("a"))

    def ask(method: str, path: str, body: Any, content_type: str = "application/json") -> int:
        headers = {"Content-Type": content_type, "Authorization": "Bearer admin-token"}
        pool = api.rest_client.pool_manager
        return int(pool.request(method, server.url + path, body=body, headers=headers).status)

    pods = "/api/v1/namespaces/default/pods"
    assert ask("POST", pods, b"{") == 400
    assert ask("POST", pods, b"[]") == 400
    assert ask("POST", pods, b'{"kind": "Service"}') == 400
    assert ask("POST", pods, b'{"metadata": {"namespace": "kube-system", "name": "x"}}') == 400
    assert ask("PUT", f"{pods}/a", b'{"metadata": {"name": "b"}}') == 400
    assert ask("PATCH", f"{pods}/a", b"{}", "application/apply-patch+yaml") == 415
    assert ask("POST", pods, b"kind: Pod", "application/yaml") == 415
    assert ask("POST", pods, b"[" * 100_000) == 400
    deep = b'{"a": ' * 900 + b"1" + b"}" * 900
    assert ask("POST", pods, b'{"metadata": {"name": "x"}, "spec": ' + deep + b"}") in (400, 422)
    assert ask("POST", pods, b" " * (4 << 20)) == 413
    assert ask("DELETE", f"{pods}/a", b'{"gracePeriodSeconds": "x"}') == 400
    assert ask("GET", "/api/v1/namespaces/default/limitranges", None) == 404
    assert ask("GET", f"{pods}/a/exec", None) == 404
    assert ask("PUT", pods, b"{}") == 405
    assert ask("GET", "/nowhere", None) == 404
    assert ask("GET", "/healthz", None) == 200


def test_logs(server: Server, core: client.CoreV1Api) -> None:
    server.running_pod()
    assert core.read_namespaced_pod_log("p", "default") == "default/p 0\ndefault/p 1\ndefault/p 2\n"
    assert core.read_namespaced_pod_log("p", "default", tail_lines=1) == "default/p 2\n"
    assert core.read_namespaced_pod_log("p", "default", tail_lines=1, follow=True).endswith("more\nand more\n")


def test_watches_end_with_the_server() -> None:
    began = threading.Event()

    def follow(core: client.CoreV1Api) -> None:
        answer = core.list_namespaced_pod("default", watch=True, _preload_content=False)
        with contextlib.suppress(ProtocolError):
            for _ in answer.stream():
                began.set()

    with Server() as server, connect(server) as api:  # fails if the server doesn't come to an end
        core = client.CoreV1Api(api)
        core.create_namespaced_pod("default", pod("a"))
        thread = threading.Thread(target=follow, args=(core,))
        thread.start()
        assert began.wait(10)
    thread.join(10)
    assert not thread.is_alive()
