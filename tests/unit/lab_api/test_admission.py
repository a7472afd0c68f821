"""Defaults and checks of built-in kinds; Service addresses."""

import pytest

from tproxy.errors import InvalidError
from tproxy.kube.port import DEPLOYMENTS, NAMESPACES, SERVICES, Object
from tproxy.lab.api.store import Store


def service(name: str = "s", namespace: str = "default", **spec: object) -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"ports": [{"port": 80}]} | spec}


def test_namespaces_exist_from_the_start(store: Store) -> None:
    assert {ns["metadata"]["name"]: ns["status"]["phase"] for ns in store.list(NAMESPACES)} == {
        "default": "Active",
        "kube-system": "Active",
        "tproxy-system": "Active",
    }


def test_a_service_gets_one_address_of_each_family(store: Store) -> None:
    first, second = (store.create(SERVICES, service(name))["spec"] for name in "ab")
    assert first["clusterIPs"] == ["10.96.0.32", "fd96::20"]
    assert (first["clusterIP"], first["ipFamilies"]) == ("10.96.0.32", ["IPv4", "IPv6"])
    assert second["clusterIPs"] == ["10.96.0.33", "fd96::21"]
    assert first["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]


def test_an_address_is_free_again_after_deletion(store: Store) -> None:
    taken = store.create(SERVICES, service())["spec"]["clusterIP"]
    store.delete(SERVICES, "s")
    assert store.create(SERVICES, service("other"))["spec"]["clusterIP"] == taken


def test_what_a_service_asks_for_is_honoured(store: Store) -> None:
    def spec(**asked: object) -> Object:
        name = f"s{len(store.list(SERVICES))}"
        return store.create(SERVICES, service(name, **asked))["spec"]

    assert spec(clusterIP="None")["clusterIPs"] == ["None"]
    assert spec(clusterIP="10.96.0.99")["clusterIPs"] == ["10.96.0.99"]
    assert spec(clusterIPs=["fd96::7", "10.96.0.7"])["ipFamilies"] == ["IPv6", "IPv4"]
    assert spec(ipFamilyPolicy="SingleStack")["clusterIPs"] == ["10.96.0.32"]
    assert spec(ipFamilies=["IPv6"])["clusterIPs"] == ["fd96::21"]
    assert "clusterIP" not in spec(type="ExternalName", externalName="example.com")
    assert spec(type="NodePort")["ports"][0]["nodePort"] == 30000
    assert spec(type="NodePort")["ports"][0]["nodePort"] == 30001


def test_the_dns_service_has_its_own_address(store: Store) -> None:
    created = store.create(SERVICES, service("kube-dns", "kube-system"))
    assert created["spec"]["clusterIPs"] == ["10.96.0.10", "fd96::a"]


def test_addresses_that_cannot_be_had(store: Store) -> None:
    store.create(SERVICES, service(clusterIP="10.96.0.99"))
    with pytest.raises(InvalidError, match="already allocated"):
        store.create(SERVICES, service("t", clusterIP="10.96.0.99"))
    with pytest.raises(InvalidError, match="not in the valid range"):
        store.create(SERVICES, service("t", clusterIP="192.0.2.1"))
    with pytest.raises(InvalidError, match="field is immutable"):
        store.patch(SERVICES, "s", {"spec": {"clusterIP": "10.96.0.98"}})


def test_an_update_without_addresses_keeps_them(store: Store) -> None:
    before = store.create(SERVICES, service())["spec"]
    after = store.update(SERVICES, service(selector={"app": "web"}))["spec"]
    assert after["clusterIPs"] == before["clusterIPs"]
    assert after["selector"] == {"app": "web"}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"ports": []}, r"spec.ports: Required value"),
        ({"ports": [{"port": 1}, {"port": 2}]}, r"spec.ports\[0\].name: Required value"),
        ({"ports": [{"port": 70000}]}, "should be less than or equal to 65535"),
    ],
)
def test_services_that_make_no_sense(store: Store, spec: Object, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        store.create(SERVICES, service(**spec))


def deployment(**spec: object) -> Object:
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
    }
    base = {"selector": {"matchLabels": {"app": "web"}}, "template": template}
    return {"metadata": {"name": "web"}, "spec": base | spec}


def test_deployment_defaults(store: Store) -> None:
    spec = store.create(DEPLOYMENTS, deployment())["spec"]
    assert spec["replicas"] == 1
    assert spec["template"]["spec"]["restartPolicy"] == "Always"
    assert spec["template"]["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"selector": {}}, "spec.selector.matchLabels: Required value"),
        ({"selector": {"matchLabels": {"app": "x"}}}, "does not match template"),
        ({"replicas": -1}, "spec.replicas: Invalid value: -1"),
        ({"template": {"metadata": {"labels": {"app": "web"}}}}, "spec.template.spec: Required value"),
    ],
)
def test_deployments_that_make_no_sense(store: Store, spec: Object, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        store.create(DEPLOYMENTS, deployment(**spec))


def test_a_selector_cannot_be_changed(store: Store) -> None:
    store.create(DEPLOYMENTS, deployment())
    labels = {"app": "web", "v": "2"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c"}]}}
    with pytest.raises(InvalidError, match="field is immutable"):
        store.update(DEPLOYMENTS, deployment(selector={"matchLabels": labels}, template=template))
