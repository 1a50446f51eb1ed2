"""Time by cause in pieces."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from flowrt.attribution.timeline import Timeline

STEP_NS = 1_000_000


@example([(0, 600_000), (1, 1), (0, 3)])
@example([(number % 2, 7) for number in range(3_000)])
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2_000)), max_size=40).map(lambda few: few * 60))
def test_pieces_hold_what_each_instant_was_charged_to(segments: list[tuple[int, int]]) -> None:
    timeline = Timeline(3, 5)
    at, ends = 5, []
    for cause, steps in segments:
        at += steps * STEP_NS
        timeline.add(cause, at)
        ends.append((at - 5, cause))
    pieces = list(timeline.pieces())
    assert len(pieces) <= 512
    assert len({end - begin for begin, end, _ in pieces[:-1]}) <= 1
    assert (pieces[-1][1] if pieces else 0) == at - 5
    begins, place = 0, 0
    for begin_ns, end_ns, charged in pieces:  # by walking along the segments once more
        assert begin_ns == begins
        expected = [0, 0, 0]
        while begins < end_ns:
            segment_end, cause = ends[place]
            stop = min(segment_end, end_ns)
            expected[cause] += stop - begins
            begins = stop
            place += stop == segment_end
        assert list(charged) == expected


def test_long_wait_is_one_segment_however_long_it_is() -> None:
    timeline = Timeline(2)
    for second in range(100_000):
        timeline.add(0, second * 1_000_000_000)
    assert len(timeline._segments) == 2  # its cause and its end
    assert not timeline._pieces
