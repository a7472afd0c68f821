"""A connection that the local app refuses is a reset for its client, at once, and says so on the laptop beforehand."""

import asyncio

from tests.lab.asking import get
from tests.lab.scene import PORT, Scene

UNUSED = 39999


def test_refused_by_the_local_app_is_a_reset_at_once(scene: Scene) -> None:
    done = scene.tproxy("intercept", "web", "-p", f"{UNUSED}:{PORT}", "-n", scene.namespace)
    try:
        assert f"warning: nothing listens on port {UNUSED}" in done.stderr
        for family in (0, 1):
            tried = asyncio.run(get(scene.outside, scene.address(family=family)))
            assert tried.who == "ConnectionResetError"
            assert tried.seconds < 0.5
        refused = scene.lab.exec("user", "curl", "-sS", "--max-time", "5", scene.url(), check=False)
        assert refused.returncode == 56, "curl's word for a reset"
    finally:
        scene.leave()
