"""Measured tables in documents, between the marks that name them."""

from pathlib import Path

from pcm_policy.files import write_text


def paste(document: str, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Args:
        document: path below the repository's root; it has both marks.
        name: of the marks.
        text: ends with a line break.
    """
    file = Path(__file__).parents[1] / document
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, rest = file.read_text().split(begin)
    write_text(file, before + begin + text + end + rest.split(end)[1])
