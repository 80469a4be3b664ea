-- Where each airport lies.
-- One row per airport and moment at which its entry becomes known, as the register stands then.
select
    faa as origin,
    created_timestamp as event_timestamp,
    created_timestamp,
    latitude_degrees,
    longitude_degrees,
    altitude_feet
from airports
-- An entry that comes late, about a time before the one that is known already, changes nothing.
qualify event_timestamp >= max(event_timestamp) over (partition by faa order by created_timestamp)
