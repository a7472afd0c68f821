"""Wrong usage, configuration, help and unexpected errors: a sentence and a hint each."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from tproxy_cli import main, paths
from tproxy_cli.config import DEFAULTS
from tproxy_cli.ui.console import Console

from tests.unit.cli.fakes import FakeDaemon, Outcome
from tproxy.errors import ClusterError

Tproxy = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["lst"], "there is no command 'lst'", "did you mean `tproxy list`?"),
        (["xyzzy"], "there is no command 'xyzzy'", "see `tproxy --help`"),
        (["config", "vew"], "there is no command 'vew'", "did you mean `tproxy config view`?"),
        (["list", "--namspace", "x"], "tproxy list has no option --namspace", None),
        (["leave", "--port", "80"], "tproxy leave has no option --port", "see `tproxy leave --help`"),
        (["list", "-x"], "tproxy list has no option -x", "see `tproxy list --help`"),
        (
            ["list", "-o", "xml"],
            "--output: 'xml' is not one of 'table', 'wide', 'json', 'yaml', 'name'",
            "see `tproxy list --help`",
        ),
        (
            ["intercept", "web", "3000"],
            "got unexpected extra argument (3000)",
            "write `tproxy intercept [OPTIONS] WORKLOAD [-- CMD [ARGUMENT]...]`; see `tproxy intercept --help`",
        ),
        (["list", "-n"], "option '-n' requires an argument", "see `tproxy list --help`"),
        (
            ["intercept"],
            "WORKLOAD is missing",
            "write `tproxy intercept [OPTIONS] WORKLOAD [-- CMD [ARGUMENT]...]`; see `tproxy intercept --help`",
        ),
        (["intercept", "web", "--timeout", "0"], "--timeout: 0 is not in the range 1<=x<=3600", None),
        (["intercept", "web", "--timeout", "soon"], "--timeout: 'soon' is not a whole number", None),
        (["intercept", "web", "--on-disconnect", "maybe"], "--on-disconnect: 'maybe' is not one of", None),
        (["intercept", "We b"], "'We b' is not the name of a workload", None),
        (["help", "exit"], "there is no command or topic 'exit'", None),
        (["help", "exit-code"], "there is no command or topic 'exit-code'", "did you mean `tproxy help exit-codes`?"),
        (["completion", "tcsh"], "SHELL: 'tcsh' is not one of 'bash', 'zsh', 'fish'", None),
    ],
)
def test_wrong_usage(tproxy: Tproxy, args: list[str], message: str, hint: str | None) -> None:
    got = tproxy(*args)
    assert (got.code, got.out) == (2, "")
    assert got.err.startswith(f"error: {message}")
    assert "\n\nhint: " in got.err
    assert hint is None or got.err.endswith(f"\n\nhint: {hint}\n")


def test_errors_as_json_lines(tproxy: Tproxy) -> None:
    got = tproxy("--progress", "json", "leave")
    assert [json.loads(line) for line in got.err.splitlines()] == [
        {
            "error": {
                "message": "say which intercepts to leave",
                "hint": "`tproxy list` shows them; `tproxy leave --all` leaves all",
                "exitCode": 2,
            }
        }
    ]


def test_progress_as_json_lines_never_mixes_with_the_result(tproxy: Tproxy, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/version"] = [{"result": {"version": "0.0.1"}}]
    daemon.answers["/v1/list"] = [{"progress": "asking"}, {"result": {"intercepts": []}}]
    got = tproxy("list", "--progress", "json", "-o", "json")
    assert json.loads(got.out) == {"intercepts": []}
    kinds = [next(iter(json.loads(line))) for line in got.err.splitlines()]
    assert kinds == ["warning", "progress"]


def test_progress_can_be_off(tproxy: Tproxy, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.answers["/v1/list"] = [{"progress": "asking"}, {"result": {"intercepts": []}}]
    monkeypatch.setenv("TPROXY_PROGRESS", "off")
    assert tproxy("list", "-o", "json").err == ""
    assert tproxy("list", "-o", "json", "--progress", "plain").err == "asking\n"


def write_config(home: Path, text: str) -> Path:
    path = home / ".config" / "tproxy" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_flag_goes_before_environment_before_file(
    tproxy: Tproxy, daemon: FakeDaemon, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers["/v1/list"] = [{"result": {"intercepts": []}}]
    write_config(home, "namespace: from-file\nall-namespaces: true\n")
    tproxy("list")
    monkeypatch.setenv("TPROXY_NAMESPACE", "from-environment")
    tproxy("list")
    tproxy("list", "-n", "from-flag")
    bodies = daemon.bodies("/v1/list")
    assert [body["cluster"]["namespace"] for body in bodies] == ["from-file", "from-environment", "from-flag"]
    assert bodies[0]["allNamespaces"] is True


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("namspace: x\n", "{path} sets 'namspace', which is not a setting", "did you mean `namespace`?"),
        ("listen: 3000\n", "{path} sets 'listen', which is not a setting", "settings are `all-namespaces`, `color`, "),
        ("a: [\n", "the configuration file {path} is not YAML, line 2", "write lines of the form"),
        ("just words\n", "the configuration file {path} holds no keys and values", "write lines of the form"),
        ("namespace: [a, b]\n", "{path}: the value of namespace is not a single word or number", "write `namespace: "),
        ("timeout: soon\n", "timeout in {path}: 'soon' is not a whole number", "see `tproxy intercept --help`"),
        ("color: purple\n", "color in {path}: 'purple' is not one of 'auto', 'always', 'never'", "see `tproxy --help`"),
    ],
)
def test_a_wrong_configuration_file(tproxy: Tproxy, home: Path, text: str, message: str, hint: str) -> None:
    path = write_config(home, text)
    got = tproxy("intercept", "web", "-p", "3000")
    assert (got.code, got.out) == (2, "")
    assert got.err.startswith(f"error: {message.format(path=path)}\n\nhint: {hint}")


def test_help_works_whatever_the_configuration_file_says(tproxy: Tproxy, home: Path) -> None:
    write_config(home, "nonsense: 1\n")
    assert tproxy("--help").code == 0


def test_an_unreadable_configuration_file(tproxy: Tproxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPROXY_CONFIG", str(home))
    assert f"error: cannot read the configuration file {home}: Is a directory\n" in tproxy("list").err


def test_an_environment_variable_is_named_as_the_source_of_its_mistake(
    tproxy: Tproxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPROXY_TIMEOUT", "soon")
    got = tproxy("intercept", "web", "-p", "3000")
    assert got.code == 2
    assert got.err.startswith("error: environment variable TPROXY_TIMEOUT: 'soon' is not a whole number\n")


def test_config_view_shows_values_and_sources(tproxy: Tproxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(home, "on-disconnect: fail\n")
    monkeypatch.setenv("TPROXY_NAMESPACE", "shop")
    seen = json.loads(tproxy("config", "view", "-o", "json").out)
    assert seen["paths"]["config"] == str(path)
    assert seen["settings"]["namespace"] == {"value": "shop", "source": "environment"}
    assert seen["settings"]["on-disconnect"] == {"value": "fail", "source": "file"}
    assert seen["settings"]["timeout"] == {"value": 60, "source": "default"}
    assert "on-disconnect    fail     file\n" in tproxy("config", "view").out


def all_commands() -> dict[str, click.Command]:
    """Every command but the lab's, which has its own conventions."""
    with click.Context(main.tproxy) as ctx:
        found = {name: main.tproxy.get_command(ctx, name) for name in main.COMMANDS if name != "lab"}
    return {name: command for name, command in found.items() if command is not None}


def test_the_table_of_commands_agrees_with_the_commands() -> None:
    for name, command in all_commands().items():
        assert command.name == name
        assert command.get_short_help_str(100) == main.COMMANDS[name]


def test_settings_are_flags_and_their_defaults_hold() -> None:
    flags = {opt: param for command in all_commands().values() for param in command.params for opt in param.opts}
    for key, default in DEFAULTS.items():
        param = flags[f"--{key}"]
        assert isinstance(param, click.Option)
        assert param.allow_from_autoenv
        if default and not param.expose_value:
            assert getattr(Console(), {"progress": "progress_mode"}.get(key, key)) == default
        elif default:
            assert param.default == default


def test_flags_are_the_same_everywhere() -> None:
    seen: dict[str, tuple[object, ...]] = {}
    for command in all_commands().values():
        for param in command.params:
            if isinstance(param, click.Option):
                for opt in param.opts:
                    shape = (param.name, sorted(param.opts), param.help, param.type.name)
                    assert seen.setdefault(opt, shape) == shape


def test_help_shows_topics_and_commands(tproxy: Tproxy) -> None:
    assert "tproxy help exit-codes" in tproxy("help").out
    assert "130   interrupted by Ctrl-C\n" in tproxy("help", "exit-codes").out
    assert "TPROXY_ON_DISCONNECT    default of --on-disconnect\n" in tproxy("help", "environment").out
    assert tproxy("help", "leave").out == tproxy("leave", "--help").out
    assert tproxy().out == tproxy("--help").out
    assert tproxy("--version").out == "tproxy 0.1.0\n"


def test_verbose_shows_the_chain_of_causes(tproxy: Tproxy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        try:
            raise OSError("no route to host " + "x" * 400)
        except OSError as error:
            raise ClusterError("cannot reach the cluster", "check with `kubectl get nodes`") from error

    monkeypatch.setattr("tproxy_cli.client.Daemon.call", fail)
    assert tproxy("list").err == "error: cannot reach the cluster\n\nhint: check with `kubectl get nodes`\n"
    got = tproxy("list", "-v")
    assert got.code == 3
    _, cause, log, *_ = got.err.splitlines()
    assert log == f"  the daemon's log is {paths.log_path()}"
    assert cause.startswith("  caused by OSError: no route to host x")
    assert len(cause) < 300, "a server's answer may be a page"


def test_an_unexpected_error_leaves_its_traceback_in_a_file(tproxy: Tproxy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("tproxy_cli.client.Daemon.call", fail)
    got = tproxy("list")
    log = paths.state_dir() / "cli.log"
    assert (got.code, got.out) == (1, "")
    assert got.err == (
        "error: unexpected KeyError: 'surprise'\n"
        "\n"
        f"hint: this is a defect of tproxy; {log} says where, and so does `-v`\n"
    )
    assert 'raise KeyError("surprise")' in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert "Traceback (most recent call last)" in tproxy("list", "-v").err
