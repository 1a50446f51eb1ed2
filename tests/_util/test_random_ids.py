"""Random ids drawn many at a time."""

from __future__ import annotations

import os
import random

from flowrt._util.random_ids import random_id


def test_ids_are_distinct_over_several_drawings() -> None:
    ids = [random_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert {len(each) for each in ids} == {32}
    assert all(int(each, 16) for each in ids)


def test_seeding_of_the_global_generator_repeats_no_id() -> None:
    seen = set()
    for _ in range(2):
        random.seed(1)
        seen |= {random_id() for _ in range(600)}
    assert len(seen) == 1_200


def test_forked_child_draws_other_ids_than_its_parent() -> None:
    random_id()  # the parent has some left, which the child inherits
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, random_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 32).decode() not in {random_id() for _ in range(600)}
