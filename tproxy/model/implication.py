"""Whether all requests of one match are requests of another as well.

Sound, not complete: what is said to be implied is, and between two regular expressions only equality is seen.
"""

from tproxy.model.match import BaggageMatch, Condition, HeaderMatch, Match, MatchKind, PathMatch
from tproxy.model.matching import BAGGAGE, baggage_entries, path_test, value_test
from tproxy.model.pattern import as_bytes


def implies(one: Match, other: Match) -> bool:
    """Whether every request that `one` is about is one that `other` is about."""
    return all(any(_implies(mine, theirs) for mine in one.conditions) for theirs in other.conditions)


def _implies(mine: Condition, theirs: Condition) -> bool:
    if mine == theirs:
        return True
    if isinstance(mine, PathMatch) and isinstance(theirs, PathMatch):
        return _path_implies(mine, theirs)
    if isinstance(mine, HeaderMatch) and isinstance(theirs, HeaderMatch):
        return mine.name == theirs.name and not mine.regex and value_test(theirs)(as_bytes(mine.value))
    if isinstance(mine, BaggageMatch) and isinstance(theirs, BaggageMatch):
        return mine.name == theirs.name and not mine.regex and value_test(theirs)(as_bytes(mine.value))
    if isinstance(mine, HeaderMatch) and isinstance(theirs, BaggageMatch):
        return mine.name.encode() == BAGGAGE and not mine.regex and _entry_in(mine.value, theirs)
    return False


def _path_implies(mine: PathMatch, theirs: PathMatch) -> bool:
    if mine.kind is MatchKind.EXACT:
        return path_test(theirs)(as_bytes(mine.value))
    if mine.kind is MatchKind.PREFIX and theirs.kind is MatchKind.PREFIX:
        # What is below a prefix is also below all that it is below of.
        return path_test(theirs)(as_bytes(mine.value.rstrip("/")) + b"/")
    return False


def _entry_in(header: str, wanted: BaggageMatch) -> bool:
    name, holds = wanted.name.encode(), value_test(wanted)
    return any(each == name and holds(value) for each, value in baggage_entries(as_bytes(header)))
