"""Real airports, from the package `airportsdata`, and which one is nearest to which."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flowrt.errors import FlowrtError, MissingExtraError

__all__ = ["Airport", "Atlas", "choose", "distance_km", "load_airports"]

_EARTH_RADIUS_KM: Final = 6371.0088  # the mean radius of the WGS 84 ellipsoid
_KM_PER_DEGREE: Final = math.radians(1) * _EARTH_RADIUS_KM
_METRES_PER_FOOT: Final = 0.3048


@dataclass(frozen=True, slots=True)
class Airport:
    """An airport with an IATA code.

    Args:
        iata: Its code, three letters or digits.
        name: Its name.
        city: The city it serves; may be empty.
        country: ISO 3166 code of its country.
        latitude: In degrees north.
        longitude: In degrees east.
        elevation_m: Above sea level, in metres.
        time_zone: Its IANA time zone.
    """

    iata: str
    name: str
    city: str
    country: str
    latitude: float
    longitude: float
    elevation_m: float
    time_zone: str


def load_airports() -> dict[str, Airport]:
    """All airports that have an IATA code, sorted by it.

    Raises:
        MissingExtraError: The package `airportsdata` is not installed.
    """
    try:
        import airportsdata  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("flowrt demo", "airportsdata", "demo") from None
    rows = airportsdata.load("IATA")
    return {
        code: Airport(
            iata=code,
            name=row["name"],
            city=row["city"],
            country=row["country"],
            latitude=row["lat"],
            longitude=row["lon"],
            elevation_m=round(row["elevation"] * _METRES_PER_FOOT, 1),
            time_zone=row["tz"],
        )
        for code, row in sorted(rows.items())
        if code
    }


def choose(airports: Mapping[str, Airport], count: int) -> list[Airport]:
    """So many airports at even distances in the order of their codes: the same ones every time.

    Args:
        airports: Sorted by code.
        count: How many.

    Raises:
        FlowrtError: There are not so many.
    """
    every = list(airports.values())
    if not 1 <= count <= len(every):
        raise FlowrtError(f"there are {len(every):,} airports, not {count:,}: ask for 1 to {len(every):,}")
    return [every[place * len(every) // count] for place in range(count)]


def distance_km(a: Airport, b: Airport) -> float:
    """The great-circle distance, in kilometres, by the haversine formula.

    Args:
        a: One end.
        b: The other.
    """
    lat_a, lat_b = math.radians(a.latitude), math.radians(b.latitude)
    across = math.sin((lat_b - lat_a) / 2) ** 2
    along = math.sin(math.radians(b.longitude - a.longitude) / 2) ** 2
    return 2 * _EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(across + math.cos(lat_a) * math.cos(lat_b) * along)))


class Atlas:
    """Finds an airport's nearest neighbour without measuring the way to every other one.

    Args:
        airports: All there are.
    """

    def __init__(self, airports: Mapping[str, Airport]) -> None:
        self._by_latitude = sorted(airports.values(), key=lambda airport: (airport.latitude, airport.iata))
        self._latitudes = [airport.latitude for airport in self._by_latitude]

    def nearest(self, airport: Airport) -> tuple[Airport, float] | None:
        """The nearest other airport and how far it is, in kilometres; None where there is no other."""
        best: Airport | None = None
        best_km = math.inf
        start = bisect_left(self._latitudes, airport.latitude)
        # North, then south: no place is nearer than its difference in latitude, so either way ends soon.
        for places in (range(start, len(self._latitudes)), range(start - 1, -1, -1)):
            for place in places:
                if abs(self._latitudes[place] - airport.latitude) * _KM_PER_DEGREE > best_km:
                    break
                other = self._by_latitude[place]
                if other.iata != airport.iata and (km := distance_km(airport, other)) < best_km:
                    best, best_km = other, km
        return None if best is None else (best, best_km)
