"""Completion by the shells and by kubectl: names from the daemon if it runs, and never a delay or an error."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tproxy_cli import main, paths

from tests.unit.cli.fakes import FakeDaemon, Outcome

Tproxy = Callable[..., Outcome]


@pytest.fixture
def complete(tproxy: Tproxy, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What bash would be offered for the last of `words`."""

    def run(*words: str) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setenv("_TPROXY_COMPLETE", "bash_complete")
            patch.setenv("COMP_WORDS", " ".join(["tproxy", *words]))
            patch.setenv("COMP_CWORD", str(len(words)))
            got = tproxy()
        assert (got.code, got.err) == (0, "")
        return [line.removeprefix("plain,") for line in got.out.splitlines() if line]

    return run


def test_commands_and_flags(complete: Callable[..., list[str]]) -> None:
    assert complete("") == sorted(main.COMMANDS)
    assert complete("li") == ["list"]
    assert complete("list", "--all") == ["--all-namespaces"]
    assert complete("list", "-o", "") == ["table", "wide", "json", "yaml", "name"]
    assert complete("help", "ex") == ["exit-codes"]
    assert complete("nonsense", "") == sorted(main.COMMANDS)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["intercept", "we"], "workloads"),
        (["leave", "we"], "intercepts"),
        (["leave", "one", "we"], "intercepts"),
        (["list", "-n", "we"], "namespaces"),
    ],
)
def test_names_come_from_the_daemon(
    complete: Callable[..., list[str]], daemon: FakeDaemon, words: list[str], what: str
) -> None:
    daemon.answers["/v1/complete"] = [{"result": {"items": ["web", "webhook"]}}]
    assert complete(*words) == ["web", "webhook"]
    (body,) = daemon.bodies("/v1/complete")
    assert (body["what"], body["prefix"]) == (what, "we")


def test_flags_typed_before_count(complete: Callable[..., list[str]], daemon: FakeDaemon) -> None:
    daemon.answers["/v1/complete"] = [{"result": {"items": []}}]
    assert complete("intercept", "-n", "shop", "--context", "lab", "w") == []
    (body,) = daemon.bodies("/v1/complete")
    assert body["cluster"] == {"kubeconfig": None, "context": "lab", "namespace": "shop"}


def test_without_a_daemon_there_is_nothing_and_none_is_started(complete: Callable[..., list[str]], home: Path) -> None:
    assert complete("leave", "") == []
    assert list((home / "run" / "tproxy").iterdir()) == []


def test_a_slow_or_failing_daemon_offers_nothing(complete: Callable[..., list[str]], daemon: FakeDaemon) -> None:
    began = time.monotonic()
    assert complete("leave", "") == []
    assert time.monotonic() - began < 1
    daemon.answers["/v1/complete"] = [{"error": {"message": "no cluster", "exitCode": 3}}]
    assert complete("leave", "") == []
    daemon.answers["/v1/complete"] = [{"result": {}}]
    assert complete("leave", "") == []


def test_a_wrong_configuration_file_or_runtime_directory_does_not_matter(
    complete: Callable[..., list[str]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config.yaml").write_text("nonsense: 1")
    monkeypatch.setenv("TPROXY_CONFIG", str(home / "config.yaml"))
    paths.runtime_dir().chmod(0o777)
    assert complete("list", "--all") == ["--all-namespaces"]
    assert complete("leave", "") == []


def test_kubectl_is_answered_in_its_own_protocol(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["/v1/complete"] = [{"result": {"items": ["web", "webhook"]}}]

    def answer(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kubectl_complete-tproxy", *words])
        main.kubectl_complete_main()
        return capsys.readouterr().out

    assert answer("intercept", "w") == "web\nwebhook\n:4\n"
    assert answer("li") == f"list\t{main.COMMANDS['list']}\n:4\n"
    assert answer("list", "--kubeconfig", "") == ":4\n"
    assert answer() == "".join(f"{name}\t{what}\n" for name, what in sorted(main.COMMANDS.items())) + ":4\n"


def test_usage_as_a_kubectl_plugin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl-tproxy", "leave", "-h"])
    with pytest.raises(SystemExit) as ended:
        main.kubectl_main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: kubectl tproxy leave [OPTIONS] [NAME]...\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_name_our_variable(tproxy: Tproxy, shell: str) -> None:
    got = tproxy("completion", shell)
    assert got.code == 0
    assert f"_TPROXY_COMPLETE={shell}_complete" in got.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_script(tproxy: Tproxy, home: Path, daemon: FakeDaemon) -> None:
    daemon.answers["/v1/complete"] = [{"result": {"items": ["web-3f2a"]}}]
    (home / "bin").mkdir()
    command = home / "bin" / "tproxy"
    command.write_text(f"#!{sys.executable}\nfrom tproxy_cli.main import main\nmain()\n")
    command.chmod(0o755)
    script = tproxy("completion", "bash").out + (
        "COMP_WORDS=(tproxy leave '') COMP_CWORD=2\n_tproxy_completion tproxy\necho \"${COMPREPLY[@]}\"\n"
    )
    environment = os.environ | {
        "PATH": f"{home}/bin:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    bash = ["bash", "--norc", "-c", script]
    assert subprocess.run(bash, env=environment, capture_output=True, text=True, check=True).stdout == "web-3f2a\n"
