"""Airport data and the search for the nearest neighbour."""

from __future__ import annotations

import pytest

from flowrt.demo.airports import Airport, Atlas, choose, distance_km, load_airports
from flowrt.errors import FlowrtError

AIRPORTS = load_airports()


def at(code: str, latitude: float, longitude: float) -> Airport:
    return Airport(code, code, "", "XX", latitude, longitude, 0.0, "UTC")


def test_airports_are_sorted_by_code() -> None:
    assert list(AIRPORTS) == sorted(AIRPORTS)
    assert len(AIRPORTS) > 5_000
    oslo = AIRPORTS["OSL"]
    assert (oslo.country, oslo.time_zone) == ("NO", "Europe/Oslo")
    assert oslo.elevation_m == pytest.approx(681 * 0.3048, abs=0.1)


def test_choice_is_evenly_spread_and_deterministic() -> None:
    chosen = [airport.iata for airport in choose(AIRPORTS, 2000)]
    assert chosen == [airport.iata for airport in choose(AIRPORTS, 2000)]
    assert len(set(chosen)) == 2000
    assert chosen == sorted(chosen)
    assert {code[0] for code in chosen} >= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert choose(AIRPORTS, len(AIRPORTS)) == list(AIRPORTS.values())


@pytest.mark.parametrize("count", [0, len(AIRPORTS) + 1])
def test_choice_outside_the_range_is_refused(count: int) -> None:
    with pytest.raises(FlowrtError, match=f"choose 1 to {len(AIRPORTS):,}"):
        choose(AIRPORTS, count)


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        (at("A", 0, 0), at("B", 0, 180), 20_015.1),
        (at("A", 90, 0), at("B", -90, 77), 20_015.1),
        (at("A", 0, 179.5), at("B", 0, -179.5), 111.2),
        (at("A", 12, 34), at("B", 12, 34), 0),
        (AIRPORTS["LHR"], AIRPORTS["JFK"], 5_540),  # published by airlines, accurate to 0.3 %
    ],
)
def test_distance_is_the_great_circle(a: Airport, b: Airport, km: float) -> None:
    assert distance_km(a, b) == pytest.approx(km, rel=0.003, abs=0.01)
    assert distance_km(b, a) == pytest.approx(distance_km(a, b))


def test_nearest_agrees_with_exhaustive_search() -> None:
    atlas = Atlas(AIRPORTS)
    for airport in [*choose(AIRPORTS, 60), max(AIRPORTS.values(), key=lambda each: each.latitude)]:
        found = atlas.nearest(airport)
        assert found is not None
        expected = min(distance_km(airport, other) for other in AIRPORTS.values() if other is not airport)
        assert found[0] is not airport
        assert found[1] == pytest.approx(expected)
        assert distance_km(airport, found[0]) == pytest.approx(expected)


def test_single_airport_has_no_nearest() -> None:
    only = at("A", 1, 2)
    assert Atlas({"A": only}).nearest(only) is None
