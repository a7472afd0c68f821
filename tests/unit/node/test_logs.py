"""Log lines."""

import io
import json
import logging

import pytest
from tproxy_node.logs import JsonFormatter, RateLimit, TextFormatter, configure


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "tproxy_node.relay", "levelname": "INFO", "msg": message, "created": 0.5})
    vars(made).update(extra)
    return made


def test_json_carries_the_fields() -> None:
    line = json.loads(JsonFormatter().format(record("attached", pod="shop/web-1", rate_key="x")))
    assert line == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "info",
        "logger": "tproxy_node.relay",
        "message": "attached",
        "pod": "shop/web-1",
    }


def test_text_is_one_line() -> None:
    assert (
        TextFormatter().format(record("attached", pod="shop/web-1")).endswith("info    relay: attached pod=shop/web-1")
    )


def test_values_cannot_forge_lines() -> None:
    text = TextFormatter().format(record("stream opened", user="mallory\nstream opened user=alice"))
    assert "\n" not in text


def test_what_the_network_can_trigger_is_limited_per_key() -> None:
    now = 0.0
    limit = RateLimit(10, lambda: now)
    assert [limit.filter(record("x", rate_key="a")) for _ in range(3)] == [True, False, False]
    assert limit.filter(record("x", rate_key="b"))
    assert limit.filter(record("x"))
    now = 11.0
    late = record("x", rate_key="a")
    assert limit.filter(late)
    assert json.loads(JsonFormatter().format(late))["left_out"] == 2


def test_rate_keys_are_bounded() -> None:
    limit = RateLimit()
    for number in range(5000):
        limit.filter(record("x", rate_key=str(number)))
    assert len(limit._keys) <= 1024


@pytest.fixture
def restored() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("restored")
def test_json_unless_a_person_is_looking() -> None:
    stream = io.StringIO()
    configure("info", "", stream)
    logging.getLogger("tproxy_node.main").info("hello")
    logging.getLogger("tproxy_node.main").debug("not this")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["hello"]
