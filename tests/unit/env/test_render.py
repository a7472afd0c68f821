"""Environment files: what their readers make of them is what the container had."""

import io
import json
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tproxy.env.render import FORMATS, render
from tproxy.errors import InvalidError

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
SHELLISH = st.text("'\"\\$`#={}() \t\n\rabn!~*0", max_size=20)
VALUES = ANY_TEXT | SHELLISH
VARIABLES = st.dictionaries(NAMES, VALUES, max_size=5)
HARD = {"A": 'it\'s "$HOME" \\', "B": "-----BEGIN-----\nx\n-----END-----\n", "C": "", "D": " # no comment ", "E": "\\n"}


@given(VARIABLES)
@example(HARD)
def test_dotenv_is_read_back(variables: dict[str, str]) -> None:
    text = render("dotenv", variables).decode()
    assert dotenv_values(stream=io.StringIO(text, newline=""), interpolate=False) == variables


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES.map(lambda name: f"T_{name}"), VALUES, max_size=20))
@example(HARD)
def test_a_shell_reads_it_back(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("sh") / "env"
    path.write_bytes(render("sh", variables))
    script = '. "$0" && exec env -0'
    shown = subprocess.run(["/bin/sh", "-c", script, str(path)], env={}, capture_output=True, check=True).stdout
    seen = dict(entry.split("=", 1) for entry in shown.decode().split("\0") if entry)
    assert {name: seen.get(name) for name in variables} == variables


def docker_reads(data: bytes) -> dict[str, str]:
    """By the rules of docker's reader: lines, blanks before the name, everything behind the first `=`."""
    found = {}
    for line in data.decode().split("\n"):
        text = line.removesuffix("\r").lstrip()
        if text and not text.startswith("#"):
            name, equals, value = text.partition("=")
            assert equals
            assert not any(character.isspace() for character in name)
            found[name] = value
    return found


@given(VARIABLES)
def test_docker_gets_all_or_nothing(variables: dict[str, str]) -> None:
    if any("\n" in value or value.endswith("\r") for value in variables.values()):
        with pytest.raises(InvalidError, match="several lines"):
            render("docker", variables)
    else:
        assert docker_reads(render("docker", variables)) == variables


def compose_reads(text: str) -> dict[str, str]:
    """By the rules of Compose's reader, as far as they matter for what is written."""
    found = {}
    while text:
        name, _, text = text.partition("=")
        if text[0] not in "'\"":
            value, _, text = text.partition("\n")
        else:
            quote, at, value = text[0], 1, ""
            while text[at] != quote:
                pair = text[at : at + 2]
                if quote == '"' and pair in ('\\"', "\\\\", "$$"):
                    value, at = value + pair[1], at + 2
                else:
                    assert text[at] not in ("\\", "$") or quote == "'"
                    value, at = value + text[at], at + 1
            text = text[at + 1 :].removeprefix("\n")
        found[name] = value
    return found


@given(VARIABLES)
@example(HARD)
def test_compose_reads_it_back(variables: dict[str, str]) -> None:
    assert compose_reads(render("compose", variables).decode()) == variables


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=5))
def test_json_is_read_back(variables: dict[str, str]) -> None:
    assert json.loads(render("json", variables)) == variables


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "json"])
@pytest.mark.parametrize("name", ["", "with space", "with\nline", "#x", "1=2\n"])
def test_names_that_a_format_cannot_hold_are_refused(form: str, name: str) -> None:
    with pytest.raises(InvalidError) as caught:
        render(form, {name: "value-that-stays-unsaid"})
    assert "value-that-stays-unsaid" not in str(caught.value)
    assert "--env-exclude" in caught.value.hint


def test_bytes_that_are_no_text_survive_where_they_can(tmp_path: Path) -> None:
    variables = {"RAW": b"\xff\xfe".decode("utf-8", "surrogateescape")}
    assert render("sh", variables) == b"export RAW='\xff\xfe'\n"
    for form in ("docker", "compose"):
        with pytest.raises(InvalidError, match="UTF-8"):
            render(form, variables)
