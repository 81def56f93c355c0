"""Sweeps: one recipe trained in several ways with several seeds, and what the difference is.

definition.py   SWEEP.yaml -> a checked `Sweep`
jobs.py         its runs as processes, several at once, going on after any stop
outcome.py      what finished runs logged -> one number for each measure, arm and seed
statistics.py   those numbers, paired by seed -> differences, intervals, sign-flip tests
"""
