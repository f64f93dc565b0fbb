"""The bandit on opaque arms and numbers: randomness, posteriors, draws and the allocation of slots.

Pure: values in, values out. An arm is a row index, an item is an integer; no clock, file or global state.
"""
