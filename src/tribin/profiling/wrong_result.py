"""What stops a profile before the clock starts."""


class WrongResultError(Exception):
    """Something that was to be timed computes something else than it should."""
