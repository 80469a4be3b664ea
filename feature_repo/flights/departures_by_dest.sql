-- Departure delays over the last 2 hours, 24 hours and 7 days to each destination.
-- One row per dest and moment at which one of them changes: a departure becomes known, is corrected, or leaves a window.
--
-- A window of length W holds at t what became known in (t - W, t], as it was last known at t: windows are over known
-- time. A correction takes the old value out and puts the new one in. Each row adds its value where it enters a window
-- and takes it away where it leaves. These are whole numbers, which a double holds exactly up to 2^53 (and DuckDB sums
-- twice as fast as big integers), so every build gives the same.
--
-- Whatever enters a window leaves it: the sums of one dest end at nothing, where those of the next begin. So they
-- run over all rows in order, in one pass, which costs half of what sums that begin anew with each dest do.
with known as (
    select
        dest,
        departure_delay_minutes as delay,
        created_timestamp as entered,
        lead(created_timestamp) over (
            partition by carrier, flight, origin, scheduled_departure order by created_timestamp, event_timestamp
        ) as corrected
    from departures
    where created_timestamp >= $start - interval 168 hour and created_timestamp < $end
),
windows(length, span) as (values ('2h', interval 2 hour), ('24h', interval 24 hour), ('7d', interval 168 hour)),
changes as (
    select dest, length, entered as moment, 1 as flights, delay, (delay >= 15)::int as late
    from known, windows
    union all
    select dest, length, least(entered + span, corrected) as moment, -1, -delay, -(delay >= 15)::int
    from known, windows
),
steps as (
    select
        dest,
        moment,
        coalesce(sum(flights) filter (length = '2h'), 0)::double as flights_2h,
        coalesce(sum(delay) filter (length = '2h'), 0)::double as delay_2h,
        coalesce(sum(late) filter (length = '2h'), 0)::double as late_2h,
        coalesce(sum(flights) filter (length = '24h'), 0)::double as flights_24h,
        coalesce(sum(delay) filter (length = '24h'), 0)::double as delay_24h,
        coalesce(sum(late) filter (length = '24h'), 0)::double as late_24h,
        coalesce(sum(flights) filter (length = '7d'), 0)::double as flights_7d,
        coalesce(sum(delay) filter (length = '7d'), 0)::double as delay_7d,
        coalesce(sum(late) filter (length = '7d'), 0)::double as late_7d
    from changes
    group by dest, moment
),
sums as (
    select
        dest,
        moment,
        sum(flights_2h) over running as flights_2h,
        sum(delay_2h) over running as delay_2h,
        sum(late_2h) over running as late_2h,
        sum(flights_24h) over running as flights_24h,
        sum(delay_24h) over running as delay_24h,
        sum(late_24h) over running as late_24h,
        sum(flights_7d) over running as flights_7d,
        sum(delay_7d) over running as delay_7d,
        sum(late_7d) over running as late_7d
    from (from steps order by dest, moment)
    window running as (rows between unbounded preceding and current row)
)
select
    dest,
    moment as event_timestamp,
    moment as created_timestamp,
    flights_2h::bigint as count_2h,
    delay_2h / nullif(flights_2h, 0) as mean_delay_minutes_2h,
    late_2h / nullif(flights_2h, 0) as late_fraction_2h,
    flights_24h::bigint as count_24h,
    delay_24h / nullif(flights_24h, 0) as mean_delay_minutes_24h,
    late_24h / nullif(flights_24h, 0) as late_fraction_24h,
    flights_7d::bigint as count_7d,
    delay_7d / nullif(flights_7d, 0) as mean_delay_minutes_7d,
    late_7d / nullif(flights_7d, 0) as late_fraction_7d
from sums
where moment >= $start and moment < $end
