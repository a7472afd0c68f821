"""Personal intercepts in the lab: each request goes to whom it is for."""

from tests.lab.scene import Scene


def test_each_request_goes_where_it_belongs(scene: Scene) -> None:
    scene.intercept("--http-header", "x-user=ada")
    try:
        assert scene.seen() == "pod"
        assert scene.seen("-H", "X-User: ada") == "laptop"
        assert scene.seen("-H", "X-User: eve") == "pod"
        mixed = scene.lab.exec(
            "user",
            *("curl", "-sS", "-H", "x-user: ada", scene.url()),
            *("--next", "-sS", scene.url()),
            *("--next", "-sS", "-H", "x-user: ada", scene.url()),
        ).stdout
        first, second, third = mixed.splitlines()
        assert (first, third) == ("laptop", "laptop")
        assert second.startswith("web-")
    finally:
        scene.tproxy("leave", "--all", "-n", scene.namespace)
    assert scene.seen("-H", "X-User: ada") == "pod"
