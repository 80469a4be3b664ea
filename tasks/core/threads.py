"""How OpenMP's threads wait for each other. Read once in a process, when its library is loaded: set before that."""

# Some tens of microseconds of turning, then sleep. By default they turn for milliseconds, which makes a fit ten times
# slower where a core is taken by anything else; asleep after 300 turns, a step of a fit alone takes two thirds longer.
# `python -m tests.benchmarks spins` shows it.
SHORT_SPINS = {"GOMP_SPINCOUNT": "3000"}
# For what runs beside a fit: its threads leave the cores to the fit's while they wait.
SHORTEST_SPINS = {"GOMP_SPINCOUNT": "300"}
