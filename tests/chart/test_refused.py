"""Values that make no sense are refused before anything is changed, naming the value."""

from typing import Any

import pytest

from tests.chart.rendering import Helm

SUBJECT = {"kind": "Group", "name": "shop-developers"}


def developers(**changes: Any) -> dict[str, Any]:
    entry = {"namespaces": ["shop"], "subjects": [SUBJECT]} | changes
    return {"rbac": {"developers": {"shop": entry}}}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"stering": "auto"}, "stering"),
        ({"steering": "ebpf"}, "/steering"),
        ({"image": {"tag": "not a tag"}}, "/image/tag"),
        ({"image": {"digest": "sha256:0123"}}, "/image/digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"image": {"name": "tproxy"}}, "name"),
        ({"probeAgents": []}, "/probeAgents"),
        ({"probeAgents": [""]}, "/probeAgents/0"),
        ({"dial": {"allow": ["10.0.0.1"]}}, "/dial/allow/0"),
        ({"dial": {"allowNodes": "yes"}}, "/dial/allowNodes"),
        ({"read": {"environment": "nobody"}}, "/read/environment"),
        ({"log": {"level": "trace"}}, "/log/level"),
        ({"limits": {"nodeDials": 0}}, "/limits/nodeDials"),
        ({"limits": {"sessionConnections": "many"}}, "/limits/sessionConnections"),
        ({"admissionPolicy": True}, "/admissionPolicy"),
        ({"crds": {"keep": "no"}}, "/crds/keep"),
        ({"updateStrategy": {"type": "Recreate"}}, "/updateStrategy/type"),
        ({"updateStrategy": {"maxUnavailable": "50%"}}, "maxUnavailable"),
        ({"resources": {"limits": {"memory": "much"}}}, "/resources/limits/memory"),
        ({"nodeSelector": {"pool": 1}}, "/nodeSelector/pool"),
        ({"podLabels": {"app.kubernetes.io/name": "other"}}, "invalid propertyName 'app.kubernetes.io/name'"),
        ({"networkPolicy": {"metricsFrom": [{}]}}, "/networkPolicy/metricsFrom/0"),
        ({"serviceMonitor": {"interval": "often"}}, "/serviceMonitor/interval"),
        ({"rbac": {"admins": [{"kind": "Team", "name": "x"}]}}, "/rbac/admins/0/kind"),
        ({"rbac": {"owners": {"argoproj.io": []}}}, "/rbac/owners/argoproj.io"),
        (developers(namespaces=["Shop"]), "/rbac/developers/shop/namespaces/0"),
        (developers(subjects=[{"kind": "Group"}]), "/rbac/developers/shop/subjects/0"),
        (developers(subjects=[]), "rbac.developers.shop.subjects is empty: name who may intercept"),
        (developers(namespaces=[]), "rbac.developers.shop.namespaces is empty: name where they may"),
        (
            developers(subjects=[{"kind": "ServiceAccount", "name": "ci"}]),
            "subject ci: a ServiceAccount has a namespace",
        ),
    ],
)
def test_refused(helm: Helm, values: dict[str, Any], named: str) -> None:
    assert named in helm.refusal(values)


def test_another_namespace(helm: Helm) -> None:
    said = helm.refusal({}, namespace="default")
    assert "add --namespace tproxy-system --create-namespace" in said


def test_everything_that_is_refused_above_is_accepted_when_right(helm: Helm) -> None:
    assert helm.objects(values=developers(subjects=[{"kind": "ServiceAccount", "name": "ci", "namespace": "shop"}]))
