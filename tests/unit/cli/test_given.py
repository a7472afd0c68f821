"""Which of the flags on a container's environment and files are the command's, and which the laptop's."""

import pytest
from tproxy_cli.given import AT_THEIR_PATHS, GivenOptions, GivenToCommand

from tproxy.errors import InvalidError

NOTHING = GivenOptions("", "", "dotenv", (), (), "")


def options(**changed: object) -> GivenOptions:
    fields = {name: getattr(NOTHING, name) for name in NOTHING.__dataclass_fields__}
    return GivenOptions(**(fields | changed))


def test_without_flags_nothing_is_wanted() -> None:
    command, rest = NOTHING.to_command()
    assert command.body() is None
    assert rest == NOTHING
    command.check()
    rest.check()


def test_the_commands_own() -> None:
    asked = options(container="web", environment=True, include=("A",), exclude=("B",), files=AT_THEIR_PATHS)
    command, rest = asked.to_command()
    assert rest == NOTHING
    assert command.body(["3000:http"]) == {
        "container": "web",
        "ports": ["3000:http"],
        "environment": True,
        "include": ["A"],
        "exclude": ["B"],
        "files": True,
        "directory": "",
    }


def test_a_file_of_the_environment_stays_the_laptops() -> None:
    command, rest = options(env_file="x.env", include=("A",), container="web").to_command()
    assert command.body() is None
    assert rest == options(env_file="x.env", include=("A",), container="web")
    command, rest = options(env_file="x.env", include=("A",), environment=True).to_command()
    assert (command.include, rest.include) == (("A",), ("A",))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (options(environment=True), "`--env` is for a command"),
        (options(files=AT_THEIR_PATHS), "`--files` without a directory is for a command"),
        (GivenToCommand("", False, ("A",), (), ""), "mean nothing without `--env`"),
        (GivenToCommand("web", False, (), (), ""), "none are asked for"),
    ],
)
def test_what_makes_no_sense(asked: GivenOptions | GivenToCommand, said: str) -> None:
    with pytest.raises(InvalidError, match=said) as caught:
        asked.check()
    assert caught.value.hint
