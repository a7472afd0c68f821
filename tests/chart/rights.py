"""Who may do what, role by role: what is expected, and what rendered roles and bindings come to.

Verbs are written as letters: get, list, watch, create, update, patch, delete, and D for deletecollection.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chart.rendering import Object
from tproxy.lab.api.authn import Rule, User
from tproxy.lab.api.rbac import rules_from

VERBS = {
    "g": "get",
    "l": "list",
    "w": "watch",
    "c": "create",
    "u": "update",
    "p": "patch",
    "d": "delete",
    "D": "deletecollection",
}
PLACES = ("shop", "bank", "tproxy-system", "default")
"""Namespaces: where the developer works, where somebody else does, and two of the cluster's."""

NODE = "system:serviceaccount:tproxy-system:tproxy-node"
USERS = {"developer": "dora", "admin": "ada", "viewer": "vera", "debugger": "debbie", "node": NODE, "nobody": "nemo"}
VALUES: Mapping[str, Any] = {
    "direct": {"enabled": True},
    "rbac": {
        "developers": {"shop": {"namespaces": ["shop"], "subjects": [{"kind": "User", "name": "dora"}]}},
        "admins": [{"kind": "User", "name": "ada"}],
        "debuggers": [{"kind": "User", "name": "debbie"}],
    },
}
VIEWER: Object = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "RoleBinding",
    "metadata": {"name": "vera-looks", "namespace": "shop"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tproxy-viewer"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "vera"}],
}
"""The chart binds nobody to `tproxy-viewer`: in clusters it is a part of `view`."""

# `*` are the namespaces that have no line of their own.
EXPECTED = """
resource                          where           developer  admin      viewer  debugger  node   nobody
sessions.tproxy.dev               shop            glwcpd     glwcupdD   glw     glw       glwd   -
sessions.tproxy.dev               tproxy-system   -          glwcupdD   -       glwcpd    glwd   -
sessions.tproxy.dev               *               -          glwcupdD   -       glw       glwd   -
intercepts.tproxy.dev             shop            glwcpd     glwcupdD   glw     glw       lw     -
intercepts.tproxy.dev             *               -          glwcupdD   -       glw       lw     -
intercepts.tproxy.dev/status      *               -          -          -       -         p      -
pods                              shop            glw        glw        -       glw       lw     -
pods                              tproxy-system   glw        glw        -       glw       lw     -
pods                              *               -          glw        -       glw       lw     -
pods/status                       tproxy-system   -          -          -       -         p      -
pods/status                       *               -          -          -       -         -      -
pods/portforward                  shop            gc         gc         -       -         -      -
pods/portforward                  tproxy-system   gc         gc         -       gc        -      -
pods/portforward                  *               -          gc         -       -         -      -
pods/log                          tproxy-system   -          -          -       g         -      -
pods/log                          *               -          -          -       -         -      -
services                          shop            glw        glw        -       glw       lw     -
services                          *               -          glw        -       glw       lw     -
endpointslices.discovery.k8s.io   shop            glw        glw        -       glw       -      -
endpointslices.discovery.k8s.io   default         -          glw        -       glw       l      -
endpointslices.discovery.k8s.io   *               -          glw        -       glw       -      -
deployments.apps                  shop            glw        glw        -       glw       g      -
deployments.apps                  *               -          glw        -       glw       g      -
daemonsets.apps                   shop            glw        glw        -       glw       g      -
daemonsets.apps                   *               -          glw        -       glw       g      -
jobs.batch                        shop            glw        glw        -       glw       g      -
jobs.batch                        *               -          glw        -       glw       g      -
events                            *               -          -          -       glw       -      -
nodes                             -               -          -          -       glw       gl     -
pods/exec                         *               -          -          -       -         -      -
pods/attach                       *               -          -          -       -         -      -
pods/ephemeralcontainers          *               -          -          -       -         -      -
secrets                           *               -          -          -       -         -      -
configmaps                        *               -          -          -       -         -      -
serviceaccounts                   *               -          -          -       -         -      -
serviceaccounts/token             *               -          -          -       -         -      -
rolebindings.rbac.authorization.k8s.io  *         -          -          -       -         -      -
namespaces                        -               -          -          -       -         -      -
"""


@dataclass(frozen=True, slots=True)
class Case:
    """Whether the user of a role may do this. `namespace` is empty for what is in none."""

    role: str
    verb: str
    resource: str
    namespace: str
    allowed: bool

    @property
    def group(self) -> str:
        """The API group."""
        return self.resource.partition("/")[0].partition(".")[2]

    @property
    def plural(self) -> str:
        """The resource without group and subresource."""
        return self.resource.partition("/")[0].partition(".")[0]

    @property
    def subresource(self) -> str:
        """Its part, if it is one."""
        return self.resource.partition("/")[2]


def cases() -> Iterator[Case]:
    """Each role with each verb, resource and namespace of the table."""
    head, *lines = [line.split() for line in EXPECTED.strip().splitlines()]
    roles = head[2:]
    named = {(line[0], line[1]) for line in lines}
    for resource, where, *cells in lines:
        places = [place for place in PLACES if (resource, place) not in named] if where == "*" else [where.strip("-")]
        for place in places:
            for role, cell in zip(roles, cells, strict=True):
                for letter, verb in VERBS.items():
                    yield Case(role, verb, resource, place, letter in cell)


def granted(objects: Sequence[Object], name: str) -> User:
    """The user with all rules that roles and bindings among `objects` give them by name."""
    roles = {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each["rules"]
        for each in objects
        if each["kind"] in ("Role", "ClusterRole")
    }
    rules: list[Rule] = []
    for binding in objects:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        if name in map(_full_name, binding["subjects"]):
            namespace, reference = binding["metadata"].get("namespace", ""), binding["roleRef"]
            home = namespace if reference["kind"] == "Role" else ""
            rules += rules_from(roles[reference["kind"], home, reference["name"]], namespace)
    return User(name, rules=tuple(rules))


def _full_name(subject: Mapping[str, str]) -> str:
    if subject["kind"] == "ServiceAccount":
        return f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
    return subject["name"]
