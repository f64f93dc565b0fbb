"""Whose fault it is: errors that a user of the engine can do something about."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what to do."""
