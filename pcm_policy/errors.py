"""The one exception that a user's mistake raises, and text that a terminal may show."""


def printable(text: object) -> str:
    r"""Return a text on one line, control codes and other unprintable characters escaped.

    Names of files, arrays and settings come from other people's files; an escape sequence in one of
    them must not reach a terminal.

    Example:
        >>> print(printable("depth\x1b[31m"), printable("Übung 実験"))
        depth\x1b[31m Übung 実験
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def printable_lines(text: str) -> str:
    """Return a text of several lines, each :func:`printable`: for what a command prints."""
    return "\n".join(map(printable, text.split("\n")))


class PcmError(ValueError):
    """Bad input: one line that names what is wrong and what to do about it.

    The command line prints the message alone and exits with code 2; anything else that escapes is
    a defect and keeps its traceback. Its text is :func:`printable`.

    Example:
        >>> from pcm_policy import DiffusionPolicy
        >>> DiffusionPolicy.from_pretrained("no/such/folder")
        Traceback (most recent call last):
        pcm_policy.errors.PcmError: ...
    """

    def __str__(self) -> str:
        return printable(super().__str__())
