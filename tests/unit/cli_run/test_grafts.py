"""How a path of the container's is to come to be on a laptop."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tproxy_cli.run.files import needed
from tproxy_cli.run.grafts import Graft, NotPossibleError, plan

LAPTOP = {"/", "/etc", "/home", "/home/ann", "/home/ann/shop", "/run", "/usr", "/usr/bin", "/etc/resolv.conf"}
KEPT = ["/etc/resolv.conf", "/home/ann", "/home/ann/shop", "/usr/bin"]
LINKS = {"/var/run": "/run"}


def realpath(path: str) -> str:
    for link, target in LINKS.items():
        if path == link or path.startswith(f"{link}/"):
            return target + path[len(link) :]
    return path


def planned(path: str, writable: Callable[[str], bool] = lambda path: path.startswith("/home/ann")) -> Graft:
    return plan(path, KEPT, realpath, LAPTOP.__contains__, writable)


@pytest.mark.parametrize(
    ("path", "made", "stand_in"),
    [
        ("/run", (), ""),
        ("/config", ("/config",), "/"),
        ("/a/b/c", ("/a", "/a/b", "/a/b/c"), "/"),
        ("/etc/web/config", ("/etc/web", "/etc/web/config"), "/etc"),
        ("/home/ann/web", ("/home/ann/web",), ""),
        ("/var/run/secrets/x", ("/run/secrets", "/run/secrets/x"), "/run"),
    ],
)
def test_what_is_missing_is_made_where_it_harms_nobody(path: str, made: tuple[str, ...], stand_in: str) -> None:
    assert planned(path) == Graft(realpath(path), made, stand_in)


@pytest.mark.parametrize("path", ["/", "/etc", "/etc/resolv.conf", "/usr", "/usr/bin", "/home", "/home/ann/shop"])
def test_what_the_command_needs_is_not_covered(path: str) -> None:
    with pytest.raises(NotPossibleError, match="the command needs the laptop's /"):
        planned(path)


@given(st.lists(st.sampled_from(["etc", "home", "ann", "web", "run", "usr", "a"]), min_size=1, max_size=6))
def test_a_graft_is_made_whole_and_covers_nothing_needed(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    try:
        graft = planned(path)
    except NotPossibleError:
        assert any(kept == path or kept.startswith(f"{path}/") for kept in KEPT)
        return
    assert not LAPTOP & set(graft.made)
    # Either it is there, or all that is missing is made, and the rest is there.
    first = graft.made[0] if graft.made else f"{graft.path}/x"
    assert first.rpartition("/")[0] or "/" in LAPTOP
    assert (graft.made[-1] if graft.made else path) == path
    assert graft.stand_in in {"", *LAPTOP}


def test_what_a_command_needs() -> None:
    found = needed({"PATH": "/usr/bin:relative:/nowhere", "HOME": "/root"}, "/usr/share")
    assert {"/proc", "/sys", "/dev", "/usr/bin", "/usr/share"} <= set(found)
    assert not {"relative", "/nowhere"} & set(found)
