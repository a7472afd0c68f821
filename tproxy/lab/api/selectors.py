"""Label and field selectors, in the syntax that the Kubernetes API takes in query strings."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tproxy.kube.port import Object
from tproxy.lab.api.errors import BadRequestError

Test = Callable[[Object], bool]

_LABEL_KEY = r"[A-Za-z0-9][-A-Za-z0-9_./]*"
_LABEL_TERM = re.compile(
    rf"""\s*(?:
        (?P<absent>!\s*{_LABEL_KEY})
      | (?P<key>{_LABEL_KEY})\s*(?:
            (?P<equals>==?|!=)\s*(?P<value>[-A-Za-z0-9_.]*)
          | \s(?P<member>in|notin)\s*\((?P<values>[^()]*)\)
        )?
    )\s*(?:,|$)""",
    re.VERBOSE,
)
_FIELD_TERM = re.compile(r"\s*(?P<path>[A-Za-z0-9_.]+)\s*(?P<equals>==?|!=)(?P<value>[^,]*)(?:,|$)")

_FIELDS_OF_ALL = frozenset({"metadata.name", "metadata.namespace"})
_FIELDS_OF_KIND = {
    "Pod": frozenset({"spec.nodeName", "spec.hostNetwork", "status.phase", "status.podIP"}),
    "Node": frozenset({"spec.unschedulable"}),
    "Namespace": frozenset({"status.phase"}),
    "Service": frozenset({"spec.clusterIP", "spec.type"}),
}


def field(obj: Object, path: str) -> str:
    """The value at a dotted path as text, empty if there is none."""
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def matcher(kind: str, labels: str = "", fields: str = "") -> Test:
    """Compile both selectors for objects of `kind`. Raises BadRequestError if one cannot be understood."""
    tests = [*_label_tests(labels), *_field_tests(kind, fields)]
    return lambda obj: all(test(obj) for test in tests)


def _terms(pattern: re.Pattern[str], text: str, what: str) -> Iterator[re.Match[str]]:
    position = 0
    while text[position:].strip():
        term = pattern.match(text, position)
        if term is None:
            raise BadRequestError(f"unable to parse requirement: {what} selector {text[:256]!r}")
        yield term
        position = term.end()


def _label_tests(text: str) -> Iterator[Test]:
    for term in _terms(_LABEL_TERM, text, "label"):
        if term["absent"]:
            yield _LabelTest(term["absent"][1:].strip(), None, negated=True)
        elif term["equals"] or term["member"]:
            values = term["values"].split(",") if term["member"] else [term["value"]]
            wanted = frozenset(value.strip() for value in values)
            yield _LabelTest(term["key"], wanted, negated=term["equals"] == "!=" or term["member"] == "notin")
        else:
            yield _LabelTest(term["key"], None)


@dataclass(frozen=True, slots=True)
class _LabelTest:
    """The label has one of the wanted values, or any value if `wanted` is None."""

    key: str
    wanted: frozenset[str] | None
    negated: bool = False

    def __call__(self, obj: Object) -> bool:
        value = (obj["metadata"].get("labels") or {}).get(self.key)
        return (value is not None if self.wanted is None else value in self.wanted) != self.negated


def _field_tests(kind: str, text: str) -> Iterator[Test]:
    for term in _terms(_FIELD_TERM, text, "field"):
        if term["path"] not in _FIELDS_OF_ALL | _FIELDS_OF_KIND.get(kind, frozenset()):
            raise BadRequestError(f"field label not supported: {term['path']}")
        yield _FieldTest(term["path"], term["value"].strip(), negated=term["equals"] == "!=")


@dataclass(frozen=True, slots=True)
class _FieldTest:
    path: str
    value: str
    negated: bool

    def __call__(self, obj: Object) -> bool:
        return (field(obj, self.path) == self.value) != self.negated
