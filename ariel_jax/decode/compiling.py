"""How long a thread has spent tracing and compiling, so that run times can leave it out."""

import threading
import time

import jax

_COMPILING = "/jax/core/compile/"


class CompileClock(threading.local):
    """Seconds in which at least one trace, lowering or compilation was going on in this thread.

    Durations nest (a program traces the functions it calls), so their intervals are united rather
    than added. Each thread has its own count: what one compiles beside another's decoding is no part
    of the other's time.
    """

    def __init__(self) -> None:
        self._total = 0.0
        self._intervals: list[tuple[float, float]] = []

    def record(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Take note of an event that has just ended; others than compilation are ignored."""
        if event.startswith(_COMPILING):
            self.add(time.perf_counter() - duration_secs, duration_secs)

    def add(self, begin: float, duration_s: float) -> None:
        """Add the interval that starts at `begin` seconds and unite it with those it meets."""
        end = begin + duration_s
        # Events arrive in the order of their ends: an outer one swallows the last few.
        while self._intervals and self._intervals[-1][1] >= begin:
            low, high = self._intervals.pop()
            self._total -= high - low
            begin, end = min(begin, low), max(end, high)
        self._intervals.append((begin, end))
        self._total += end - begin

    def seconds(self) -> float:
        """Seconds so far; the difference of two readings is what was compiled in between."""
        return self._total


_clock: CompileClock | None = None
_making = threading.Lock()


def compile_seconds() -> float:
    """Seconds of tracing and compiling in this thread since the first call of this function."""
    global _clock
    with _making:
        if _clock is None:
            _clock = CompileClock()
            jax.monitoring.register_event_duration_secs_listener(_clock.record)
    return _clock.seconds()
