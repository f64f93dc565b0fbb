"""Every property is tried on the same examples in every run, so a failure anywhere is a failure everywhere."""

from hypothesis import settings

# No deadline: the first example of a property may wait for a compiler. 100 examples is Hypothesis's own number.
settings.register_profile("feedloom", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("feedloom")
