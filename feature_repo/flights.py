"""Flights: which features there are, and the service that the delay model is pinned to.

A view names a feature table (`lake://<table>`), built by the SQL file of that name in `flights/`. Joined names are
`view__feature`. A view or a service that a promoted model uses is not changed: a new one is added beside it.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int32, Int64, PrimitiveFeastType, String, UnixTimestamp

WINDOWS = ("2h", "24h", "7d")

origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
dest = Entity(name="dest", join_keys=["dest"], value_type=ValueType.STRING)
tailnum = Entity(name="tailnum", join_keys=["tailnum"], value_type=ValueType.STRING)
airport = Entity(name="airport", join_keys=["airport"], value_type=ValueType.STRING)


def table_view(
    table: str, entity: Entity, ttl: timedelta, description: str, features: dict[str, PrimitiveFeastType]
) -> FeatureView:
    """A view of a feature table, named like it. `ttl`: how old a row may be and still be served; 0 is for ever."""
    return FeatureView(
        name=table,
        description=description,
        entities=[entity],
        ttl=ttl,
        source=FileSource(
            name=table,
            path=f"lake://{table}",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        schema=[
            Field(name=entity.join_key, dtype=String),
            *(Field(name=name, dtype=kind) for name, kind in features.items()),
        ],
    )


def delay_view(what: str, entity: Entity) -> FeatureView:
    features: dict[str, PrimitiveFeastType] = {}
    for window in WINDOWS:
        features[f"count_{window}"] = Int64
        features[f"mean_delay_minutes_{window}"] = Float64
        features[f"late_fraction_{window}"] = Float64
    # A row is written when the last flight leaves the 7 days, so older rows say "none"; a day over tells a quiet key
    # from one that is gone.
    description = f"{what.capitalize()} delays over the last 2 h, 24 h and 7 d, per {entity.name}"
    return table_view(f"{what}_by_{entity.name}", entity, timedelta(days=8), description, features)


weather_at_origin = table_view(
    "weather_at_origin",
    origin,
    timedelta(hours=6),  # reports are hourly; one that is six hours old says little
    "The latest weather report at the airport of origin",
    {
        "observed_at": UnixTimestamp,
        "temperature_fahrenheit": Float64,
        "dew_point_fahrenheit": Float64,
        "humidity_percent": Float64,
        "wind_direction_degrees": Float64,
        "wind_speed_mph": Float64,
        "wind_gust_mph": Float64,
        "precipitation_inches": Float64,
        "pressure_millibars": Float64,
        "visibility_miles": Float64,
    },
)

aircraft = table_view(
    "aircraft",
    tailnum,
    timedelta(0),
    "What the register says of the aircraft",
    {"year_built": Int32, "manufacturer": String, "engines": Int32, "seats": Int32, "engine": String},
)

airport_facts = table_view(
    "airport",
    airport,
    timedelta(0),
    "Where an airport lies",
    {"latitude_degrees": Float64, "longitude_degrees": Float64, "altitude_feet": Int32, "utc_offset_hours": Int32},
)

last_arrival = table_view(
    "last_arrival",
    tailnum,
    timedelta(days=8),
    "The last known arrival of the aircraft: when, where and how late",
    {"arrived_at": UnixTimestamp, "dest": String, "delay_minutes": Int32},
)

departures_by_origin = delay_view("departures", origin)
departures_by_carrier = delay_view("departures", carrier)
departures_by_dest = delay_view("departures", dest)
arrivals_by_origin = delay_view("arrivals", origin)
arrivals_by_carrier = delay_view("arrivals", carrier)
arrivals_by_dest = delay_view("arrivals", dest)

flight_delay = FeatureService(
    name="flight_delay",
    description="What is known two hours before a departure about whether the flight will arrive late",
    features=[
        weather_at_origin,
        aircraft,
        # One view seen from both ends of the flight.
        airport_facts.with_name("origin_airport").with_join_key_map({"airport": "origin"}),
        airport_facts.with_name("dest_airport").with_join_key_map({"airport": "dest"}),
        last_arrival,
        departures_by_origin,
        departures_by_carrier,
        departures_by_dest,
        arrivals_by_origin,
        arrivals_by_carrier,
        arrivals_by_dest,
    ],
)
