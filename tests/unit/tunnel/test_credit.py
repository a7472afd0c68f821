"""Windows: they grow with the rate, share one budget, and give back what they took."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tproxy.tunnel.credit import BUDGET, MAX_WINDOW, MIN_WINDOW, START_WINDOW, Budget, Window

RTT = 0.05


def transfer(window: Window, now: float, seconds: float, bytes_per_second: float) -> float:
    """A reader that keeps up with a sender limited by the window or by `bytes_per_second`; returns the end time."""
    end = now + seconds
    while now < end:
        chunk = window.due_at
        # The peer's next quarter arrives as fast as it may send, and no faster than the window per round trip.
        now += max(chunk / bytes_per_second, chunk * RTT / window.size)
        window.held -= chunk
        window.spent += chunk
        assert window.held >= 0
        window.grant(now, RTT)
    return now


def started(budget: Budget) -> Window:
    window = Window(budget, 0.0)
    window.widen()
    return window


def test_a_window_starts_at_256_kib_and_grows_until_it_no_longer_limits() -> None:
    window = started(Budget())
    assert window.size == START_WINDOW
    rate = 20e6  # 1 MB in flight at 50 ms
    transfer(window, 0.0, 2.0, rate)
    assert rate * RTT <= window.size <= 4 * rate * RTT


def test_a_slow_connection_keeps_its_first_window() -> None:
    window = started(Budget())
    transfer(window, 0.0, 10.0, 1e6)
    assert window.size == START_WINDOW


def test_a_window_is_bounded_and_shrinks_when_the_connection_has_become_slow() -> None:
    window = started(Budget())
    now = transfer(window, 0.0, 5.0, 1e9)
    assert window.size == MAX_WINDOW
    transfer(window, now, 600.0, 50e3)
    assert window.size < MAX_WINDOW / 2
    assert window.size >= START_WINDOW


def test_closing_gives_everything_back() -> None:
    budget = Budget()
    window = started(budget)
    transfer(window, 0.0, 5.0, 1e9)
    window.close()
    assert budget.free == BUDGET


@given(st.lists(st.sampled_from(["open", "fast", "close"]), max_size=300), st.randoms(use_true_random=False))
def test_all_windows_together_stay_within_the_budget(steps: list[str], random: Random) -> None:
    budget = Budget()
    windows: list[Window] = []
    now = 0.0
    for step in steps:
        if step == "open":
            windows.append(started(budget))
        elif windows and step == "fast":
            now = transfer(random.choice(windows), now, 1.0, 1e9)
        elif windows:
            windows.pop(random.randrange(len(windows))).close()
        assert sum(window.size - MIN_WINDOW for window in windows) + budget.free == BUDGET
        assert budget.free >= 0
        assert all(window.size >= MIN_WINDOW for window in windows)


def test_four_thousand_connections_fit() -> None:
    budget = Budget()
    windows = [started(budget) for _ in range(4096)]
    assert sum(window.size for window in windows) <= BUDGET + 4096 * MIN_WINDOW
    assert min(window.size for window in windows) >= MIN_WINDOW
