-- The latest report at each airport, what changed before it, and the 24 hours that end with it.
-- One row per origin and moment at which a report becomes known, from the hours as they are reported by then: a late report
-- fills its hour, a correction replaces it.
with known as (
    select *, created_timestamp as moment
    from reports
    where created_timestamp >= $start - interval 30 hour and created_timestamp < $end
),
-- Hours count for as long as they can be among the 24 before the latest one: joining by two days keeps the pairs few.
by_two_days as (
    select *, epoch(reported_hour)::bigint // 172800 + unnest([0, 1]) as two_days
    from known
),
seen as (
    select
        moments.moment as seen_at,
        max(reported_hour) over (partition by moments.origin, moments.moment) as newest,
        by_two_days.*
    from (select distinct origin, moment from known) as moments
    join by_two_days
        on by_two_days.origin = moments.origin
        and two_days = epoch(moments.moment)::bigint // 172800
        and by_two_days.moment <= moments.moment
        and reported_hour > moments.moment - interval 26 hour
    qualify row_number() over (
        partition by moments.origin, moments.moment, reported_hour order by by_two_days.moment desc
    ) = 1
)
select
    origin,
    seen_at as event_timestamp,
    seen_at as created_timestamp,
    newest as observed_at,
    -- There is one row per hour, so that max() takes the value of that hour.
    max(temperature_fahrenheit) filter (reported_hour = newest) as temperature_fahrenheit,
    max(dew_point_fahrenheit) filter (reported_hour = newest) as dew_point_fahrenheit,
    max(humidity_percent) filter (reported_hour = newest) as humidity_percent,
    max(wind_direction_degrees) filter (reported_hour = newest) as wind_direction_degrees,
    max(wind_speed_mph) filter (reported_hour = newest) as wind_speed_mph,
    max(pressure_millibars) filter (reported_hour = newest) as pressure_millibars,
    max(visibility_miles) filter (reported_hour = newest) as visibility_miles,
    max(wind_speed_mph) filter (reported_hour = newest)
        - max(wind_speed_mph) filter (reported_hour = newest - interval 3 hour)
        as wind_speed_change_mph_3h,
    max(pressure_millibars) filter (reported_hour = newest)
        - max(pressure_millibars) filter (reported_hour = newest - interval 3 hour)
        as pressure_change_millibars_3h,
    max(temperature_fahrenheit) filter (reported_hour = newest)
        - max(temperature_fahrenheit) filter (reported_hour = newest - interval 3 hour)
        as temperature_change_fahrenheit_3h,
    max(temperature_fahrenheit) filter (reported_hour = newest)
        - max(temperature_fahrenheit) filter (reported_hour = newest - interval 24 hour)
        as temperature_change_fahrenheit_24h,
    -- Whole thousandths, so that the sum does not depend on the order it is taken in.
    sum(round(1000 * wind_speed_mph)::bigint) filter (reported_hour > newest - interval 24 hour)
        / (1000 * count(wind_speed_mph) filter (reported_hour > newest - interval 24 hour))
        as mean_wind_speed_mph_24h,
    max(wind_speed_mph) filter (reported_hour > newest - interval 24 hour) as highest_wind_speed_mph_24h,
    sum(round(1000 * precipitation_inches)::bigint) filter (reported_hour > newest - interval 24 hour) / 1000
        as precipitation_inches_24h
from seen
where seen_at >= $start and seen_at < $end
group by origin, seen_at, newest
