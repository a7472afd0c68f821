"""Objects are copied field by field: what nobody thought of stays out."""

from tproxy_cli.gather import objects
from tproxy_cli.gather.secrets import REMOVED

METADATA = {
    "name": "one",
    "namespace": "shop",
    "uid": "u-1",
    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "planted"},
    "managedFields": [{"manager": "planted"}],
}


def test_a_session_comes_without_its_hash() -> None:
    shown = objects.session({"metadata": METADATA, "spec": {"tokenHash": "planted", "user": "ada", "new": "planted"}})
    assert shown["spec"] == {"user": "ada"}
    assert shown["metadata"] == {"name": "one", "namespace": "shop", "uid": "u-1"}


def test_an_intercept_comes_without_the_values_it_matches_by() -> None:
    match = {"headers": [{"name": "cookie", "value": "planted", "type": "Exact"}], "path": {"value": "/cart"}}
    shown = objects.intercept({"metadata": METADATA, "spec": {"target": {"kind": "Deployment"}, "match": match}})
    assert shown["spec"]["match"] == {
        "headers": [{"name": "cookie", "value": REMOVED, "type": "Exact"}],
        "path": {"value": "/cart"},
    }
    assert "planted" not in str(shown)
    listed = objects.matches_removed({"clusters": [{"intercepts": [{"name": "web", "match": match}, {"match": None}]}]})
    assert "planted" not in str(listed)
    assert listed["clusters"][0]["intercepts"][0]["name"] == "web"


def test_a_pod_comes_without_environment_and_arguments() -> None:
    container = {"name": "node", "image": "tproxy", "env": [{"value": "planted"}], "args": ["planted"]}
    shown = objects.pod(
        {
            "metadata": METADATA,
            "spec": {"nodeName": "node1", "containers": [container]},
            "status": {
                "phase": "Running",
                "containerStatuses": [{"name": "node", "restartCount": 2, "new": "planted"}],
            },
        }
    )
    assert shown["node"] == "node1"
    assert shown["containers"] == [{"name": "node", "restartCount": 2}]
    assert "planted" not in str(shown)


def test_nodes_and_events_come_with_what_helps() -> None:
    given = {"metadata": METADATA, "status": {"nodeInfo": {"kernelVersion": "6.1", "machineID": "planted"}}}
    assert objects.node(given)["info"] == {"kernelVersion": "6.1"}
    about = {"kind": "Pod", "name": "tproxy-x", "uid": "planted"}
    event = objects.event({"metadata": METADATA, "involvedObject": about, "reason": "Failed", "message": "no image"})
    assert event == {"about": {"kind": "Pod", "name": "tproxy-x"}, "reason": "Failed", "message": "no image"}


def test_a_kubeconfig_comes_with_its_shape_alone() -> None:
    shown = objects.kubeconfig(
        "shop",
        {
            "files": ["/home/ada/.kube/config"],
            "namespace": "shop",
            "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority-data": "planted"},
            "user": {"token": "planted", "as": "planted", "exec": {"command": "aws", "env": [{"value": "planted"}]}},
        },
    )
    assert "planted" not in str(shown)
    assert shown["user"] == {"has": ["exec", "token"], "plugin": "aws", "impersonates": True}
    assert shown["cluster"] == {"server": "https://10.0.0.1:6443", "hasCertificateAuthority": True}


def test_objects_that_make_no_sense_stop_nothing() -> None:
    for show in (objects.session, objects.intercept, objects.pod, objects.node, objects.event):
        assert isinstance(show({}), dict)
        assert isinstance(show({"metadata": {}, "spec": None, "status": None}), dict)
