"""How OpenMP's threads wait for each other. Read once in a process, when its library is loaded: set before that."""

# Some tens of microseconds of spinning, then sleep. By default they spin for milliseconds, which makes a fit five to
# thirty times slower where a core is taken by anything else; asleep after a few (300 turns and fewer) two threads are
# hardly faster than one on the small operations of these networks. `python -m tests.benchmarks spins` shows it.
SHORT_SPINS = {"GOMP_SPINCOUNT": "3000"}
# For what runs beside a fit: its threads leave the cores to the fit's while they wait.
SHORTEST_SPINS = {"GOMP_SPINCOUNT": "300"}
