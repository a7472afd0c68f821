"""Rights as the chart gives them: rules of Kubernetes' RBAC, as far as the lab's table of rules can say them."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from tproxy.errors import InvalidError
from tproxy.lab.api.authn import Rule, User
from tproxy.lab.api.resources import CHART_FILES

RULE_DIRECTORY = CHART_FILES / "rules"
"""The chart's own, so that in the lab everybody has the rights that the chart gives and no others."""

_UNDERSTOOD = {"apiGroups", "resources", "verbs"}


def rules_from(rules: Iterable[Mapping[str, Any]], namespace: str = "") -> tuple[Rule, ...]:
    """The rules of a Role or ClusterRole, bound in `namespace` or, if that is empty, in the whole cluster.

    Raises InvalidError for what the lab cannot tell apart, such as single objects by name.
    """
    found = []
    for rule in rules:
        if rest := sorted(set(rule) - _UNDERSTOOD):
            raise InvalidError(f"the lab knows no rules with {', '.join(rest)}")
        resources = {_full_name(resource, group) for group in rule["apiGroups"] for resource in rule["resources"]}
        found.append(Rule(frozenset(rule["verbs"]), frozenset(resources), namespace))
    return tuple(found)


def chart_rules(name: str, namespace: str = "") -> tuple[Rule, ...]:
    """Those of one of the chart's roles, by the name of its file. Raises OSError outside of a checkout."""
    return rules_from(yaml.safe_load((RULE_DIRECTORY / f"{name}.yaml").read_text()), namespace)


def developer(name: str, namespace: str, system_namespace: str = "tproxy-system") -> User:
    """Somebody whom the chart's value `rbac.developers` lets intercept in one namespace."""
    return User(name, rules=chart_rules("developer", namespace) + chart_rules("reach-nodes", system_namespace))


def debugger(name: str, system_namespace: str = "tproxy-system") -> User:
    """Somebody whom the chart's value `rbac.debuggers` lets ask why."""
    return User(name, rules=chart_rules("debugger") + chart_rules("debugger-of-nodes", system_namespace))


def node(name: str, groups: tuple[str, ...], system_namespace: str = "tproxy-system") -> User:
    """The node daemons' identity, where they are exposed."""
    own = chart_rules("node-in-its-own", system_namespace)
    return User(name, groups, chart_rules("node") + chart_rules("node-in-default", "default") + own)


def _full_name(resource: str, group: str) -> str:
    """`pods/log` stays, `intercepts/status` of `tproxy.dev` is `intercepts.tproxy.dev/status`."""
    plural, slash, subresource = resource.partition("/")
    return (f"{plural}.{group}" if group else plural) + slash + subresource
