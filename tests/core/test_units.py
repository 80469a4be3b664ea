"""Other units are named; weather, bad weeks and slow seasons are not taken for them."""

import itertools

import numpy as np
import pytest

from tasks.core.units import find_conversion, quantiles, spread

GENERATOR = np.random.default_rng(0)
WINTER = GENERATOR.normal(40, 10, 2000)  # degrees Fahrenheit
MINUTES = GENERATOR.exponential(20, 2000)


def found(before, after, usual_jump=0.8, column="outdoor_temp"):
    return find_conversion(column, quantiles(after), quantiles(before), scale=spread(before), usual_jump=usual_jump)


@pytest.mark.parametrize(
    ("column", "before", "after", "told"),
    [
        ("temperature_fahrenheit", WINTER, (WINTER + 3 - 32) / 1.8, "degrees Celsius instead of Fahrenheit"),
        ("view__temp", (WINTER - 32) / 1.8, WINTER + 3, "degrees Fahrenheit instead of Celsius"),
        ("delay_minutes", MINUTES, MINUTES * 60 * 1.1, "minutes and seconds"),
        ("delay_minutes", MINUTES, MINUTES / 60, None),  # all near zero: nothing but their spread could tell
        ("delay_minutes", WINTER, (WINTER + 3 - 32) / 1.8, None),  # a quiet week: minutes are no degrees
        ("amount", WINTER, (WINTER + 3 - 32) / 1.8, None),
        ("amount", WINTER + 200, (WINTER + 205) * 1.609344, "miles and kilometres"),
        ("amount", MINUTES, MINUTES * 1000, "ones and thousands"),
        ("temp", WINTER, (WINTER - 32) / 1.8 + 273.15, "kelvins instead of degrees Fahrenheit"),
        ("temp", WINTER, WINTER + 18, None),  # a warm week
        ("temp", WINTER, WINTER + 60, None),  # a jump that no conversion explains
        ("amount", MINUTES, MINUTES * 2, None),  # a bad week
    ],
)
def test_what_a_column_seems_to_be_in(column, before, after, told):
    conversion = found(before, after, column=column)
    assert (conversion is None) if told is None else (conversion is not None and told in conversion.told)


def test_a_season_is_a_walk_of_small_steps():
    weeks = [WINTER + 2 * week for week in range(30)]
    assert not any(found(a, b) for a, b in itertools.pairwise(weeks))


def test_too_few_values_and_a_constant_say_nothing():
    assert quantiles(np.array([1.0] * 49)) == ()
    assert found(np.zeros(100), np.full(100, 60.0)) is None
    rain = np.where(np.arange(1000) % 10 == 0, 0.1, 0.0)
    assert found(rain, np.where(np.arange(1000) % 4 == 0, 0.3, 0.0), usual_jump=0.1) is None
