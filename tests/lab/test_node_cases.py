"""The five cases of docs/guides/debug-a-node.md, made by the script, named by `why`, shown by `flows` or `trace`."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "demo" / "cases.py"

SAID = {
    "app-down": (r"The app on the laptop of \S+ is down: nothing listens there", r"laptop +intercept .* refused:"),
    "wrong-port": (
        r"Port 8080 is not intercepted, so the app gets it: \S+ of \S+ has 9090",
        r"Port 9090 is the wrong port: .*Service web sends to 8080",
        r"nothing has come to port 9090, which .* intercepts; no Service sends to it: Service web sends to 8080",
        r":8080 .* LISTEN -> SYN_RECV  the app's: of this pod 9090 is intercepted",
    ),
    "tunnel-stalled": (
        r"waiting .* waits for the laptop, which has said nothing for \d\.\d s|laptop .* tunnel-lost: silent",
        r"The tunnel has stalled: the laptop of \S+ has said nothing for \d s"
        r"|The tunnel to \S+ has stalled: the laptop was silent",  # on a slow machine it has been given up by then
        r"The tunnel to \S+ has stalled: the laptop was silent for 6 s, .* so the app gets it",
    ),
    "overlapping-match": (
        r"Such a request goes to \S+, by \S+ \(path=/cart/\*\); \S+ of \S+ \(x-user=ada\) matches too",
        r"request .* laptop +match ",
    ),
    "accept-queue": (
        r"The app's accept queue overflows: 2 connections wait on port 8080 and only 1 may, so the kernel drops",
        r"overflow .* 0\.0\.0\.0:8080 .* for want of room in the accept queue, 2 waiting of 1",
    ),
}
"""What each of a case's answers has to say."""


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cases", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SAID)
def test_each_case_is_named(lab: Any, name: str) -> None:
    cases = script()
    assert cases.CASES.keys() == SAID.keys()
    answers = list(cases.CASES[name](cases.Case(lab.layout.name, f"case-{name}")))
    assert len(answers) == len(SAID[name])
    for pattern, answer in zip(SAID[name], answers, strict=True):
        assert re.search(pattern, answer), f"{pattern!r} is not in\n{answer}"
    guide = (SCRIPT.parents[1] / "docs" / "guides" / "debug-a-node.md").read_text()
    assert f"demo/cases.py {name}" in guide
