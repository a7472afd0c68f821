"""The form of answers: whatever the pieces, the same objects; whatever the bytes, a sentence at worst."""

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.debug.answer import MAX_LINE, AnswerReader, begin, error_of, failure, line
from tproxy.errors import DeniedError, TproxyError

VALUES = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name != "error"), st.none() | st.booleans() | st.integers() | st.text()
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


@given(st.lists(VALUES, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
def test_lines_in_any_pieces(values: list[dict[str, Any]], cuts: list[int]) -> None:
    data = begin("lines") + b"".join(map(line, values))
    reader = AnswerReader()
    found = [one for piece in pieces(data, cuts) for one in reader.feed(piece)]
    reader.end()
    assert found == values


@given(st.binary(max_size=200), st.lists(st.integers(0, 10_000), max_size=8))
def test_bytes_in_any_pieces(payload: bytes, cuts: list[int]) -> None:
    reader = AnswerReader()
    found = [one for piece in pieces(begin("bytes") + payload, cuts) for one in reader.feed(piece)]
    reader.end()
    assert b"".join(one for one in found if isinstance(one, bytes)) == payload


@given(st.binary(max_size=300))
def test_garbage_is_a_sentence(data: bytes) -> None:
    reader = AnswerReader()
    with contextlib.suppress(TproxyError):
        list(reader.feed(data))
        reader.end()


def test_errors_keep_their_parts() -> None:
    told = error_of(json.loads(failure(DeniedError("no", "ask"))))
    assert told is not None
    assert (told.message, told.hint, told.exit_code) == ("no", "ask", DeniedError.exit_code)


@pytest.mark.parametrize("data", [b"", begin("lines")[:-1], begin("lines") + b"{"])
def test_half_an_answer(data: bytes) -> None:
    reader = AnswerReader()
    list(reader.feed(data))
    with pytest.raises(TproxyError, match="half an answer"):
        reader.end()


@pytest.mark.parametrize(
    "data", [b"{" + b" " * MAX_LINE, b'{"a":"' + b"x" * MAX_LINE + b'"}\n', b"[" * 100_000 + b"\n"]
)
def test_lines_are_bounded(data: bytes) -> None:
    reader = AnswerReader()
    list(reader.feed(begin("lines")))
    with pytest.raises(TproxyError, match="node daemon sent"):
        list(reader.feed(data))
