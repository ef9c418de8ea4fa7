"""One HTML page that needs no other file."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path


def embed(path: Path) -> str:
    """Return an image or film as an HTML element that needs no other file."""
    data = base64.b64encode(path.read_bytes()).decode()
    if path.suffix == ".mp4":
        return (
            f'<video controls autoplay loop muted width="340" '
            f'src="data:video/mp4;base64,{data}"></video>'
        )
    return f'<img style="max-width:100%" src="data:image/png;base64,{data}">'


def captioned(path: Path, caption: str) -> str:
    """Return an image or film with a line under it; several stand side by side."""
    style = "display:inline-block;margin:0 12px 12px 0"
    line = f"<figcaption>{html.escape(caption)}</figcaption>"
    return f'<figure style="{style}">{embed(path)}{line}</figure>'


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in HTML."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table>{line(head, 'th')}{body}</table>"


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return one self-contained HTML page of ``(heading, html)`` sections."""
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse;font-size:13px}td,th{padding:2px 9px;text-align:right;"
        "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    )
    body = "".join(f"<h2>{html.escape(h)}</h2>{content}" for h, content in sections)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style><h1>{html.escape(title)}</h1>{body}</html>\n"
    )
