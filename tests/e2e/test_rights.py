"""The table of rights of tests/chart, asked of a real API server, which knows nothing of ours."""

import asyncio
import json

import pytest
from tproxy_cli.doctor import cluster as doctor

from tests.chart.rights import USERS, Case, cases
from tests.e2e.chart import Release
from tests.e2e.control_plane import ControlPlane
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.errors import Call

AT_ONCE = 32


async def disagreements(kubeconfig: str) -> list[Case]:
    """The cases that the API server decides otherwise."""
    cluster = ApiCluster(load(kubeconfig, None))
    limit = asyncio.Semaphore(AT_ONCE)

    async def ask(case: Case) -> bool:
        attributes = {
            "verb": case.verb,
            "group": case.group,
            "resource": case.plural,
            "subresource": case.subresource,
            "namespace": case.namespace,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": USERS[case.role], "resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        async with limit:
            answer = await cluster.transport.json("POST", path, Call("create", "subjectaccessreviews"), body=review)
        return bool(answer["status"]["allowed"])

    try:
        asked = list(cases())
        answers = await asyncio.gather(*map(ask, asked))
    finally:
        await cluster.close()
    return [case for case, allowed in zip(asked, answers, strict=True) if allowed != case.allowed]


@pytest.mark.usefixtures("release")
def test_everybody_may_what_the_table_says(plane: ControlPlane) -> None:
    assert asyncio.run(disagreements(str(plane.kubeconfig))) == []


@pytest.mark.parametrize(
    ("role", "verbs"), [("edit", "create patch delete"), ("admin", "deletecollection"), ("view", "watch")]
)
def test_kubernetes_own_roles_have_them_too(plane: ControlPlane, release: Release, role: str, verbs: str) -> None:
    """The controller manager puts them together."""
    binding = ("create", "rolebinding", f"her-{role}", "-n", "bank", f"--clusterrole={role}", f"--user=grace-{role}")
    assert plane.kubectl(*binding).returncode == 0
    for verb in verbs.split():
        ask = ("auth", "can-i", verb, "intercepts.tproxy.dev", "-n", "bank", f"--as=grace-{role}")
        plane.wait(f"{role}: {verb}", *ask, until="yes")
    assert plane.kubectl("auth", "can-i", "list", "pods", "-n", "tproxy-system", f"--as=grace-{role}").returncode == 1


@pytest.mark.usefixtures("release")
def test_what_the_doctor_says_to_a_developer(plane: ControlPlane) -> None:
    found = asyncio.run(doctor.check(str(plane.kubeconfig_of("dora")), None, "shop"))
    told = {finding.name: finding for finding in found}
    assert told["user"].text == "dora"
    for name in ("api-server", "rights-to-intercept", "rights-to-reach-nodes", "kinds"):
        assert told[name].outcome == "pass", json.dumps(told[name].text)
    assert told["node-daemons"].outcome == "fail"  # there are no nodes
