"""How OpenMP's threads wait for each other. Read once in a process, when its library is loaded: set before that."""

# A few microseconds of spinning, then sleep. By default they spin for milliseconds, which makes a fit five to fifteen
# times slower where a core is taken by anything else; asleep at once (OMP_WAIT_POLICY=passive) two threads are slower
# than one on the small operations of these networks.
SHORT_SPINS = {"GOMP_SPINCOUNT": "300"}
