"""Whichever address clients use, of pod or Service, IPv4 or IPv6: they reach the laptop, and later the app."""

from tests.lab.scene import PORT, Scene


def urls(scene: Scene) -> list[str]:
    service = next(
        one for one in scene.lab.status()["services"] if (one["namespace"], one["name"]) == (scene.namespace, "web")
    )
    assert len(service["clusterIPs"]) == len(scene.pods()[0]["addresses"]) == 2
    hosts = [f"[{host}]" if ":" in host else host for host in service["clusterIPs"]]
    for pod in scene.pods():
        hosts += [f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}" for host in pod["addresses"]]
    return [f"http://{host}/" for host in hosts]


def test_every_address_leads_to_the_laptop_and_back(scene: Scene) -> None:
    with scene.intercepted():
        assert {url: scene.seen(url=url) for url in urls(scene)} == dict.fromkeys(urls(scene), "laptop")
        [other] = scene.lab.pods(scene.namespace, "bystander-")
        neighbour = f"pod/{scene.namespace}/{other['name']}"
        for url in (*urls(scene), "http://web/"):
            assert scene.lab.exec(neighbour, "curl", "-sg", "--max-time", "5", url).stdout == "laptop\n"
        for pod in scene.pods():
            itself = f"pod/{scene.namespace}/{pod['name']}"
            for host in ("127.0.0.1", "[::1]"):
                url = f"http://{host}:{PORT}/"
                assert scene.lab.exec(itself, "curl", "-sg", "--max-time", "5", url).stdout == "laptop\n"
    assert {scene.seen(url=url) for url in urls(scene)} == {"pod"}
