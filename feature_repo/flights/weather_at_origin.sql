-- The latest weather report at each airport of origin.
-- One row per origin and moment at which a report becomes known. An old report that comes late does not displace a newer
-- one; a correction does. `observed_at` is the beginning of the hour that was reported, so that its age can be told.
with reports as (
    select
        origin,
        created_timestamp as moment,
        struct_pack(
            observed_at := event_timestamp, known_at := created_timestamp, temperature_fahrenheit, dew_point_fahrenheit,
            humidity_percent, wind_direction_degrees, wind_speed_mph, wind_gust_mph, precipitation_inches,
            pressure_millibars, visibility_miles
        ) as report
    from weather
    where created_timestamp >= $start - interval 24 hour and created_timestamp < $end
),
latest as (
    -- Structs compare by their fields in order: the latest observation, of that the latest correction.
    select distinct
        origin,
        moment,
        max(report) over (
            partition by origin order by moment range between interval 24 hour preceding and current row
        ) as report
    from reports
)
select
    origin,
    moment as event_timestamp,
    moment as created_timestamp,
    report.observed_at,
    report.temperature_fahrenheit,
    report.dew_point_fahrenheit,
    report.humidity_percent,
    report.wind_direction_degrees,
    report.wind_speed_mph,
    report.wind_gust_mph,
    report.precipitation_inches,
    report.pressure_millibars,
    report.visibility_miles
from latest
where moment >= $start and moment < $end
