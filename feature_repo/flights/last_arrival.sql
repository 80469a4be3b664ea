-- The last arrival of each aircraft that is known, of those of the last 7 days: where, when and how late.
-- One row per tail number and moment at which that can change: an arrival becomes known, is corrected, or is 7 days old.
--
-- The last one is the one that arrived last, not the one that was heard of last.
with known as (
    select
        tailnum,
        struct_pack(
            arrived_at := event_timestamp, known_at := created_timestamp, carrier, flight, origin, scheduled_departure,
            dest, arrival_delay_minutes
        ) as arrival,
        created_timestamp as entered,
        least(
            created_timestamp + interval 168 hour,
            lead(created_timestamp) over (
                partition by carrier, flight, origin, scheduled_departure order by created_timestamp, event_timestamp
            )
        ) as ended
    from arrivals
    where created_timestamp >= $start - interval 168 hour and created_timestamp < $end
),
moments as (
    select tailnum, entered as moment from known
    union
    select tailnum, ended from known
),
-- An arrival counts for 7 days, so in its own week and in the next: joining by week keeps the pairs few.
by_week as (
    select *, epoch(entered)::bigint // 604800 + unnest([0, 1]) as week
    from known
)
select
    moments.tailnum,
    moment as event_timestamp,
    moment as created_timestamp,
    max(arrival).arrived_at as arrived_at,
    max(arrival).dest as dest,
    max(arrival).arrival_delay_minutes as delay_minutes
from moments
left join by_week
    on by_week.tailnum = moments.tailnum
    and week = epoch(moment)::bigint // 604800
    and entered <= moment
    and moment < ended
where moments.tailnum is not null and moment >= $start and moment < $end
group by moments.tailnum, moment
