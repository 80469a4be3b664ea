"""A column in other units: it jumped further than it ever did, and one conversion puts it back where it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVELS = np.linspace(0.05, 0.95, 19)  # of the quantiles that stand for a column; the ends say little and stray far
MIN_VALUES = 50
MIN_DIFFERENT = 8  # of the quantiles
SAME_STRETCH = 0.15  # a sixth wider or narrower is as wide as before
SMALLEST_JUMP = 0.3
FURTHER = 2.0  # than the largest jump between any two windows that were whole
# Delays of a bad week are twice those of a good one, all of them: a small factor has to be further from what is usual.
SMALL_FACTOR, MUCH_FURTHER = 5.0, 3.0
# A scale of temperature has an offset that no weather explains: less is asked of it. Source: the weeks of 2013 in New
# York, none of which is taken for a conversion; of those in Celsius half are found at once, of those in kelvins all.
ANY_FURTHER, FAR = 1.2, 8.0
# What the words of a column's name say it measures. Minutes may come as seconds, and never as degrees: the delays of a
# quiet week differ from those of a bad one just as degrees Celsius do from Fahrenheit.
WORDS = {
    "temperature": {"temperature", "temp", "dew", "fahrenheit", "celsius", "kelvin"},
    "time": {"seconds", "minutes", "hours", "days", "duration", "age", "delay"},
    "length": {"feet", "miles", "inches", "metres", "meters", "kilometres", "kilometers", "centimetres", "km", "mm"},
    "speed": {"speed", "mph", "knots", "kmh"},
    "pressure": {"pressure", "millibars", "hectopascals", "hpa"},
    "mass": {"mass", "weight", "pounds", "kilograms", "kg"},
    "number": {"count", "num", "number", "percent", "fraction", "share", "rate"},
}
# How many of the one make one of the other. Only what is far from 1: a week can differ from the last by a tenth.
FACTORS = {
    "length": {
        "feet and metres": 3.28084, "miles and kilometres": 1.609344, "inches and centimetres": 2.54,
        "inches and millimetres": 25.4,
    },
    "mass": {"pounds and kilograms": 2.20462},
    "speed": {
        "miles per hour and metres per second": 2.236936, "knots and metres per second": 1.943844,
        "miles and kilometres per hour": 1.609344, "kilometres per hour and metres per second": 3.6,
    },
    "pressure": {"inches of mercury and hectopascals": 33.8639},
    "time": {"minutes and seconds (or hours and minutes)": 60.0, "hours and seconds": 3600.0, "days and hours": 24.0},
}  # fmt: skip
PREFIXES = {  # of anything
    "ones and hundreds (or fractions and percent)": 100.0, "ones and thousands": 1000.0, "ones and millions": 1e6,
}  # fmt: skip
_AFFINE: dict[str, Callable[[Floats], Floats]] = {
    "degrees Celsius instead of Fahrenheit": lambda x: x * 1.8 + 32,
    "degrees Fahrenheit instead of Celsius": lambda x: (x - 32) / 1.8,
    "kelvins instead of degrees Celsius": lambda x: x - 273.15,
    "kelvins instead of degrees Fahrenheit": lambda x: (x - 273.15) * 1.8 + 32,
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a column seems to be in, how far it jumped and how far it is off once converted, in spreads."""

    told: str
    jump: float
    left: float


def quantiles(values: Floats) -> tuple[float, ...]:
    """At LEVELS; empty where there are too few values. `values` may hold nan, which are left out."""
    present = values[~np.isnan(values)]
    return tuple(np.quantile(present, LEVELS).tolist()) if len(present) >= MIN_VALUES else ()


def spread(values: Floats) -> float:
    """Between the quartiles; where most values are one and the same, the standard deviation; 0 where all are."""
    present = values[~np.isnan(values)]
    if not len(present):
        return 0.0
    low, high = np.quantile(present, [0.25, 0.75])
    return float(high - low) or float(present.std())


def distance(one: Sequence[float], other: Sequence[float], scale: float) -> float:
    """Mean distance of two sets of quantiles, in spreads: Wasserstein-1 over the middle nine tenths."""
    return float(np.abs(np.asarray(one) - np.asarray(other)).mean() / scale)


def find_conversion(
    column: str, current: Sequence[float], usual: Sequence[float], *, scale: float, usual_jump: float
) -> Conversion | None:
    """The conversion that explains the jump from `usual` to `current`; None without a jump, or an explanation.

    A column that is mostly one value, as rain is mostly none, is not judged: a wet week would look like other units.
    Where the name of the column says what it measures, only conversions of that are tried; temperatures have to say so.

    `usual_jump` is the largest between any two windows that were whole.
    """
    if not current or not usual or not scale > 0:
        return None
    jump, now = distance(current, usual, scale), np.asarray(current)
    if jump <= SMALLEST_JUMP or len(set(usual)) < MIN_DIFFERENT:
        return None
    measured = _measured(column)
    is_temperature = "temperature" in measured
    ways = {told: (way(now), ANY_FURTHER) for told, way in _AFFINE.items() if is_temperature}
    kinds = measured or FACTORS.keys()
    factors = {told: factor for kind in kinds for told, factor in FACTORS.get(kind, {}).items()} | PREFIXES
    for told, factor in factors.items():
        further = FURTHER if factor >= SMALL_FACTOR else MUCH_FURTHER
        ways[f"other units ({told})"] = now / factor, further
        ways[f"other units ({told}), the other way round"] = now * factor, further
    # A conversion puts the spread back too; without this the one or other factor would explain any warm week.
    allowed = max(abs(_stretch(now, usual)) / (1 if is_temperature else 2), SAME_STRETCH)
    if is_temperature and jump > FAR * usual_jump:
        allowed = np.inf
    left = {
        told: distance(converted.tolist(), usual, scale)
        for told, (converted, further) in ways.items()
        if jump > further * usual_jump and abs(_stretch(converted, usual)) <= allowed
    }
    told = min(left, key=lambda name: left[name], default="")
    explains = bool(left) and left[told] <= max(usual_jump, 0.25) and left[told] <= jump / 3
    return Conversion(told, jump, left[told]) if explains else None


def _measured(column: str) -> set[str]:
    """What a column measures, by the words of its name; nothing where they do not tell."""
    words = set(column.lower().split("_"))
    return {kind for kind, names in WORDS.items() if words & names}


def _stretch(current: Sequence[float] | Floats, usual: Sequence[float]) -> float:
    """The logarithm of how much wider the middle nine tenths have become."""
    wide = [max(float(each[-1] - each[0]), 1e-12) for each in (current, usual)]
    return float(np.log(wide[0] / wide[1]))
