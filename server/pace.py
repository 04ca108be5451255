"""How fast long work goes: over its last minute, so that waits and earlier runs don't count."""

import time

WINDOW_S = 60.0
SPACING_S = 0.5  # between two marks that are kept


class Pace:
    """Marks of how much was done when. One thread marks; any other asks for the rate."""

    def __init__(self) -> None:
        self._marks: tuple[tuple[float, int], ...] = ()  # (time.monotonic(), units done); replaced as a whole

    def start(self, done: int) -> None:
        """Begin to count here: what was done before says nothing about the pace from now on."""
        self._marks = ((time.monotonic(), done),)

    def mark(self, done: int) -> None:
        """Say how much is done by now. Less than before means another stage, counted from there."""
        now, marks = time.monotonic(), self._marks
        if not marks or done < marks[-1][1]:
            self._marks = ((now, done),)
            return
        if len(marks) > 1 and now - marks[-2][0] < SPACING_S:
            marks = marks[:-1]
        oldest = 0
        while oldest + 1 < len(marks) and marks[oldest + 1][0] <= now - WINDOW_S:
            oldest += 1
        self._marks = (*marks[oldest:], (now, done))

    def rate(self) -> float | None:
        """Return units a second, or None where nothing was done yet."""
        marks = self._marks
        if not marks:
            return None
        (first_s, first), (last_s, last) = marks[0], marks[-1]
        return (last - first) / (last_s - first_s) if last > first and last_s > first_s else None
