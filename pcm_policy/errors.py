"""The one exception that a user's mistake raises."""


class PcmError(ValueError):
    """Bad input: one line that names what is wrong and what to do about it.

    The command line prints the message alone and exits with code 2; anything else that escapes is
    a defect and keeps its traceback.
    """
