"""Events and decisions as types, the policy, the pools, and the two functions everything turns on.

`serve` makes a decision; `fold` makes a user's next state of a decision or a reaction.

Pure: values in, values out. No socket, file, clock, environment or global random state.
"""
