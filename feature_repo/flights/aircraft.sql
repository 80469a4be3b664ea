-- What the register says of each aircraft.
-- One row per tail number and moment at which its entry becomes known, as the register stands then.
select
    tailnum,
    created_timestamp as event_timestamp,
    created_timestamp,
    year_built,
    manufacturer,
    engines,
    seats,
    engine
from planes
-- An entry that comes late, about a time before the one that is known already, changes nothing.
qualify event_timestamp >= max(event_timestamp) over (partition by tailnum order by created_timestamp)
