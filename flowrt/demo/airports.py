"""Airport data from the package `airportsdata`, with a search for the nearest neighbour."""

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
    """Airport with an IATA code.

    Args:
        iata: IATA code, three letters or digits.
        name: Name of the airport.
        city: City that it serves; may be empty.
        country: ISO 3166 code of the country.
        latitude: Latitude in degrees north.
        longitude: Longitude in degrees east.
        elevation_m: Elevation above sea level in metres.
        time_zone: IANA time zone.
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
    """Load all airports that have an IATA code, sorted by code.

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
    """Choose evenly spaced airports in the order of their codes; deterministic.

    Args:
        airports: Airports sorted by code.
        count: Number of airports.

    Raises:
        FlowrtError: `count` is not between 1 and the number of airports.
    """
    every = list(airports.values())
    if not 1 <= count <= len(every):
        raise FlowrtError(f"there are {len(every):,} airports, not {count:,}: choose 1 to {len(every):,}")
    return [every[number * len(every) // count] for number in range(count)]


def distance_km(a: Airport, b: Airport) -> float:
    """Compute the great-circle distance by the haversine formula.

    Args:
        a: First airport.
        b: Second airport.

    Returns:
        Distance in kilometres.
    """
    lat_a, lat_b = math.radians(a.latitude), math.radians(b.latitude)
    across = math.sin((lat_b - lat_a) / 2) ** 2
    along = math.sin(math.radians(b.longitude - a.longitude) / 2) ** 2
    return 2 * _EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(across + math.cos(lat_a) * math.cos(lat_b) * along)))


class Atlas:
    """Spatial index of airports, sorted by latitude: finds the nearest neighbour without computing every distance.

    Args:
        airports: Airports by code.
    """

    def __init__(self, airports: Mapping[str, Airport]) -> None:
        self._by_latitude = sorted(airports.values(), key=lambda airport: (airport.latitude, airport.iata))
        self._latitudes = [airport.latitude for airport in self._by_latitude]

    def nearest(self, airport: Airport) -> tuple[Airport, float] | None:
        """Return the nearest other airport and its distance in kilometres, or None if there is no other."""
        best: Airport | None = None
        best_km = math.inf
        start = bisect_left(self._latitudes, airport.latitude)
        # North, then south. The difference in latitude is a lower bound of the distance, so both scans end early.
        for indices in (range(start, len(self._latitudes)), range(start - 1, -1, -1)):
            for index in indices:
                if abs(self._latitudes[index] - airport.latitude) * _KM_PER_DEGREE > best_km:
                    break
                other = self._by_latitude[index]
                if other.iata != airport.iata and (km := distance_km(airport, other)) < best_km:
                    best, best_km = other, km
        return None if best is None else (best, best_km)
