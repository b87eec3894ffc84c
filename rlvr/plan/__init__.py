"""What a run will need, before it is started: memory of each role, what fits, and how fast it may go.

Works from a config and a model's facts alone: knows no torch, and starts nothing. Memory follows from formulas that
tests hold against measured runs; speeds are estimates whose assumptions are printed with them.
"""
