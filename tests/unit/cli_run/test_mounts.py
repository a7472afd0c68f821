"""What is mounted over what, and what becomes of nsswitch.conf."""

import pytest
from tproxy_cli.run.mounts import Plan, plan, without_other_resolvers


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hosts: files dns\n", "hosts: files dns\n"),
        ("hosts:          files\n", "hosts:          files dns\n"),
        (
            "hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n",
            "hosts:          files myhostname dns\n",
        ),
        ("hosts: files mdns4_minimal [NOTFOUND=return] dns # by us\n", "hosts:          files dns\n"),
        ("passwd: files sss\nhosts:\tfiles[SUCCESS=return]resolve\n", "passwd: files sss\nhosts:          files dns\n"),
        ("# hosts: resolve\n", "# hosts: resolve\n"),
        ("", ""),
    ],
)
def test_names_are_looked_up_as_resolv_conf_says(before: str, after: str) -> None:
    assert without_other_resolvers(before) == after


def machine(nsswitch: str | None, links: dict[str, str], directories: set[str]) -> Plan:
    def read(path: str) -> str:
        if nsswitch is None:
            raise FileNotFoundError(path)
        return nsswitch

    return plan("nameserver 192.0.0.53\n", read, lambda path: links.get(path, path), directories.__contains__)


def test_a_plain_machine() -> None:
    found = machine("hosts: files dns\n", {}, set())
    assert found == Plan((("/etc/resolv.conf", "nameserver 192.0.0.53\n"),), ())


def test_a_machine_with_systemd_resolved_and_nscd() -> None:
    links = {"/etc/resolv.conf": "/run/systemd/resolve/stub-resolv.conf", "/var/run/nscd": "/run/nscd"}
    found = machine("hosts: resolve files\n", links, {"/run/systemd/resolve", "/run/nscd", "/var/run/nscd"})
    assert [path for path, _ in found.files] == ["/run/systemd/resolve/stub-resolv.conf", "/etc/nsswitch.conf"]
    assert set(found.hidden) == {"/run/nscd", "/run/systemd/resolve"}


def test_a_machine_without_nsswitch() -> None:
    assert len(machine(None, {}, set()).files) == 1
