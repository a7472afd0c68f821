"""What the chart says of itself, and that it agrees with the code it runs and is used by."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tproxy_cli.doctor import nodes
from tproxy_node import options, privileges
from tproxy_node.dial.dialling import DialLimits
from tproxy_node.relay import Limits

from tests.chart.rendering import CHART, ROOT, SCENARIOS, Helm, Object, of_kind, parse, scenario_version
from tproxy.lab import daemons
from tproxy.version import VERSION

sys.path.insert(0, str(ROOT / "charts"))
import document
import manifest

POD = {
    "NODE_NAME": "node1",
    "POD_NAMESPACE": "tproxy-system",
    "POD_NAME": "tproxy-node-x",
    "POD_IP": "10.244.1.5",
    "HOST_IP": "10.99.0.11",
}
"""A daemon's environment."""


def expanded(argument: str) -> str:
    """With the variables that the kubelet puts into arguments."""
    for name, value in POD.items():
        argument = argument.replace(f"$({name})", value)
    return argument


def chart_file() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return found


def daemon_set(objects: list[Object]) -> Object:
    return of_kind(objects, "DaemonSet")[0]


def container(objects: list[Object]) -> dict[str, Any]:
    found: dict[str, Any] = daemon_set(objects)["spec"]["template"]["spec"]["containers"][0]
    return found


def test_versions_are_the_code_s() -> None:
    assert chart_file()["appVersion"] == VERSION
    assert chart_file()["version"] == VERSION


def test_artifact_hub_is_told_of_every_definition() -> None:
    annotations = chart_file()["annotations"]
    told = yaml.safe_load(annotations["artifacthub.io/crds"])
    definitions = [yaml.safe_load(path.read_text()) for path in sorted((CHART / "files" / "crds").iterdir())]
    assert {each["name"]: (each["kind"], each["version"]) for each in told} == {
        each["metadata"]["name"]: (each["spec"]["names"]["kind"], each["spec"]["versions"][0]["name"])
        for each in definitions
    }
    assert annotations["artifacthub.io/license"] in (ROOT / "setup.cfg").read_text()


def test_artifact_hub_is_told_of_every_image(helm: Helm) -> None:
    told = yaml.safe_load(chart_file()["annotations"]["artifacthub.io/images"])
    assert [each["image"] for each in told] == [container(helm.objects())["image"]]


def test_the_readme_has_the_table_of_values_as_they_are() -> None:
    page = (CHART / "README.md").read_text()
    assert page == document.readme(page, (CHART / "values.yaml").read_text()), "run `python charts/document.py`"


def test_every_value_is_in_the_schema_and_described() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    for name, value in values.items():
        known = schema["properties"][name].get("properties")
        if isinstance(value, dict) and known and value:
            assert set(value) <= set(known), name
    paths = {path for path, _ in document.described((CHART / "values.yaml").read_text())}
    assert {path for path, _ in document.leaves(values, paths)} == paths


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda file: file.name)
def test_the_daemon_understands_its_arguments(helm: Helm, scenario: Path) -> None:
    rendered = container(helm.objects(scenario, kubernetes=scenario_version(scenario)))
    names = [variable["name"] for variable in rendered["env"]]
    assert names == ["NODE_NAME"] or set(names) == set(POD)
    found = options.parse([expanded(argument) for argument in rendered["args"]], POD)
    values = yaml.safe_load((CHART / "values.yaml").read_text()) | yaml.safe_load(scenario.read_text())
    assert found.steering == values["steering"]
    assert found.probe_agents == tuple(values["probeAgents"])
    assert [str(network) for network in found.dial.allowed] == values["dial"]["allow"]
    assert found.dial.allow_nodes == values["dial"].get("allowNodes", False)
    assert (found.environment, found.files) == (values["read"]["environment"], values["read"]["files"])
    limits = values["limits"]
    assert found.limits == Limits(limits["sessionConnections"], limits["nodeConnections"])
    assert found.dial_limits == DialLimits(limits["sessionDials"], limits["nodeDials"])
    assert (found.log_level, found.log_format) == (values["log"]["level"], values["log"]["format"])


def test_the_chart_s_own_values_are_the_daemon_s_defaults(helm: Helm) -> None:
    ours = options.parse(container(helm.objects())["args"], {"NODE_NAME": "node1"})
    assert ours == options.parse(["--log-format", "json"], {"NODE_NAME": "node1"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, ("10.244.1.5", 4772)),
        ({"hostPort": 30470}, ("10.99.0.11", 30470)),
        ({"host": "$(NODE_NAME).example.com", "externalPort": 443}, ("node1.example.com", 443)),
    ],
)
def test_daemons_are_exposed_where_the_administrator_says(
    helm: Helm, values: dict[str, Any], said: tuple[str, int]
) -> None:
    peers = [{"ipBlock": {"cidr": "10.8.0.0/16"}}]
    objects = helm.objects(values={"direct": {"enabled": True, "from": peers, **values}})
    found = options.parse([expanded(argument) for argument in container(objects)["args"]], POD).direct
    assert found is not None
    assert (found.host, found.port) == said
    assert (found.pod.namespace, found.pod.name) == ("tproxy-system", "tproxy-node-x")
    port = next(port for port in container(objects)["ports"] if port["name"] == "direct")
    assert port["containerPort"] == found.listen.port
    assert port.get("hostPort", 0) == values.get("hostPort", 0)
    rules = of_kind(objects, "NetworkPolicy")[0]["spec"]["ingress"]
    assert rules[1] == {"ports": [{"port": "direct", "protocol": "TCP"}], "from": peers}


def test_daemons_are_not_exposed_unless_somebody_says_so(helm: Helm) -> None:
    objects = helm.objects()
    assert options.parse(container(objects)["args"], {"NODE_NAME": "node1"}).direct is None
    assert [port["name"] for port in container(objects)["ports"]] == ["http"]
    assert len(of_kind(objects, "NetworkPolicy")[0]["spec"]["ingress"]) == 1


def test_every_option_of_the_daemon_is_a_value(helm: Helm, capsys: pytest.CaptureFixture[str]) -> None:
    """Save those that the pod itself decides."""
    with pytest.raises(SystemExit):
        options.parse(["--help"], {})
    flags = {word.strip("[],") for word in capsys.readouterr().out.split() if word.strip("[").startswith("--")}
    scenario = CHART / "ci" / "everything-values.yaml"
    given = {argument.partition("=")[0] for argument in container(helm.objects(scenario))["args"]}
    assert flags - given == {"--help", "--version", "--node", "--kubeconfig", "--proc", "--grpc", "--http", "--socket"}


def test_the_daemon_has_the_capabilities_it_asks_for_and_no_privilege(helm: Helm) -> None:
    context = container(helm.objects())["securityContext"]
    assert context["privileged"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]
    added = set(context["capabilities"]["add"])
    assert added == set(privileges.NEEDED.values()) | {"DAC_READ_SEARCH", "NET_RAW"}
    assert context["capabilities"]["add"] == list(daemons.CAPABILITIES)


def test_updates_interrupt_one_node_at_a_time(helm: Helm) -> None:
    spec = daemon_set(helm.objects())["spec"]
    assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 5


def test_the_command_line_finds_the_daemons_where_the_chart_puts_them(helm: Helm) -> None:
    found = daemon_set(helm.objects())
    assert found["metadata"]["namespace"] == nodes.SYSTEM_NAMESPACE == daemons.NAMESPACE
    labels = found["spec"]["template"]["metadata"]["labels"]
    wanted = dict(pair.split("=") for pair in nodes.NODE_DAEMON_LABELS.split(","))
    assert wanted.items() <= labels.items()
    assert found["spec"]["selector"]["matchLabels"] == wanted
    assert labels[nodes.VERSION_LABEL] == VERSION
    assert {port["containerPort"] for port in container([found])["ports"]} == {nodes.HEALTH_PORT}


def test_everything_that_is_not_the_daemon_is_restricted(helm: Helm) -> None:
    """By Pod Security's profile of that name."""
    (pod,) = of_kind(helm.objects(), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & set(pod["spec"])
    assert pod["spec"]["automountServiceAccountToken"] is False
    for each in pod["spec"]["containers"]:
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_definitions_go_with_the_release_unless_they_are_to_stay(helm: Helm) -> None:
    definitions = of_kind(helm.objects(), "CustomResourceDefinition")
    assert {each["metadata"]["name"] for each in definitions} == {"sessions.tproxy.dev", "intercepts.tproxy.dev"}
    assert not any(each["metadata"].get("annotations") for each in definitions)
    kept = of_kind(helm.objects(values={"crds": {"keep": True}}), "CustomResourceDefinition")
    assert all(each["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for each in kept)


def test_definitions_come_out_as_they_are(helm: Helm) -> None:
    for rendered in of_kind(helm.objects(), "CustomResourceDefinition"):
        plural = rendered["spec"]["names"]["plural"]
        assert rendered["spec"] == yaml.safe_load((CHART / "files" / "crds" / f"{plural}.yaml").read_text())["spec"]


def test_the_admission_policy_is_for_clusters_that_have_it(helm: Helm) -> None:
    def policies(kubernetes: str, **values: str) -> list[Object]:
        return of_kind(helm.objects(values=values, kubernetes=kubernetes), "ValidatingAdmissionPolicy")

    assert len(policies("1.34")) == 1
    assert policies("1.29") == []
    assert policies("1.34", admissionPolicy="never") == []
    assert len(policies("1.29", admissionPolicy="always")) == 1


def test_the_manifest_is_the_chart_in_its_namespace(helm: Helm) -> None:
    objects = parse(manifest.manifest(helm.path))
    assert objects[0]["kind"] == "Namespace"
    kinds = [each["kind"] for each in objects[1:]]
    assert sorted(kinds) == sorted(each["kind"] for each in helm.objects() if each["kind"] != "Pod")
    assert "Helm" not in {each["metadata"]["labels"].get("app.kubernetes.io/managed-by") for each in objects[1:]}


def notes(helm: Helm, directory: Path, values: dict[str, Any]) -> str:
    """What `helm install` would print in the end. Helm renders it without a cluster only as an object."""
    chart = directory / "tproxy"
    shutil.copytree(CHART, chart, dirs_exist_ok=True)
    text = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{text}{{{{ end }}}}')
    (chart / "templates" / "notes.yaml").write_text('notes: {{ include "notes" . | toJson }}')
    arguments = ["--namespace", "tproxy-system", "--kube-version", "1.29", "--show-only", "templates/notes.yaml"]
    done = helm.run("template", "tproxy", chart, *arguments, values=values)
    assert done.returncode == 0, done.stderr
    return str(yaml.safe_load(done.stdout)["notes"])


def test_notes_name_the_next_commands(helm: Helm, tmp_path: Path) -> None:
    bare = notes(helm, tmp_path, {})
    for words in ("helm test tproxy", "enforce=privileged", "Nobody but cluster administrators", "tproxy doctor"):
        assert words in bare
    assert "This cluster does not check" in bare
    group = {"kind": "Group", "name": "shop-developers"}
    developers = {
        "shop": {"namespaces": ["shop"], "subjects": [group]},
        "sre": {"namespaces": ["*"], "subjects": [group]},
    }
    said = notes(helm, tmp_path, {"rbac": {"developers": developers, "admins": [group]}, "admissionPolicy": "always"})
    for words in ("shop: in shop", "sre: in every namespace", "Group shop-developers: in every namespace"):
        assert words in said
    assert "Nobody but" not in said
    assert "This cluster does not check" not in said
