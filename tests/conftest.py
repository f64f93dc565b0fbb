"""Every property is tried on the same examples in every run, so that a failure can be met again."""

from hypothesis import settings

# No deadline: the first example of a property may wait for a compiler. 100 examples are Hypothesis's own.
settings.register_profile("feedloom", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("feedloom")
