"""Weather: what the reports of the last day say of the next hours."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int32, String, UnixTimestamp

origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)

recent_weather = FeatureView(
    name="recent_weather",
    description="The latest report at an airport, and the day before it",
    entities=[origin],
    ttl=timedelta(hours=3),  # reports are hourly
    source=FileSource(
        name="recent_weather",
        path="lake://recent_weather",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    ),
    schema=[
        Field(name="origin", dtype=String),
        Field(name="observed_at", dtype=UnixTimestamp),
        Field(name="temperature_fahrenheit", dtype=Float64),
        Field(name="dew_point_fahrenheit", dtype=Float64),
        Field(name="humidity_percent", dtype=Float64),
        Field(name="wind_direction_degrees", dtype=Float64),
        Field(name="wind_speed_mph", dtype=Float64),
        Field(name="pressure_millibars", dtype=Float64),
        Field(name="visibility_miles", dtype=Float64),
        Field(name="wind_speed_change_mph_3h", dtype=Float64),
        Field(name="pressure_change_millibars_3h", dtype=Float64),
        Field(name="temperature_change_fahrenheit_3h", dtype=Float64),
        Field(name="temperature_change_fahrenheit_24h", dtype=Float64),
        Field(name="mean_wind_speed_mph_24h", dtype=Float64),
        Field(name="highest_wind_speed_mph_24h", dtype=Float64),
        Field(name="precipitation_inches_24h", dtype=Float64),
    ],
)

airport = FeatureView(
    name="airport",
    description="Where an airport lies",
    entities=[origin],
    ttl=timedelta(0),
    source=FileSource(
        name="airport",
        path="lake://airport",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    ),
    schema=[
        Field(name="origin", dtype=String),
        Field(name="latitude_degrees", dtype=Float64),
        Field(name="longitude_degrees", dtype=Float64),
        Field(name="altitude_feet", dtype=Int32),
    ],
)

wind_ahead = FeatureService(
    name="wind_ahead",
    description="What is known, when a report comes in, about the wind of the hours to come",
    features=[recent_weather, airport],
)
