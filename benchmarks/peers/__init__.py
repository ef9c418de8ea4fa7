"""Other people's few-call samplers, as rows of the study: one method a file."""

import argparse
from pathlib import Path


def trained_parser(text: str | None) -> argparse.ArgumentParser:
    """Return what the trained peers' commands have in common.

    Args:
        text: of the module, shown by ``--help``.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", help="the human demonstrations")
    parser.add_argument("output", type=Path)
    parser.add_argument("--policy", default="released/pusht")
    return parser
