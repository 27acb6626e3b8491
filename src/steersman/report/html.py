"""HTML as text: elements, tables and figures, with everything that comes from outside escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

CSS = """
:root{color-scheme:light dark;--paper:#ffffff;--raised:#f6f7f9;--ink:#1b1f24;--soft:#57606a;--line:#dfe3e8;
--accent:#0a5fa8;--good:#00684c;--bad:#b3261e;--minus:#1f6fb5;--plus:#b43a06}
@media (prefers-color-scheme:dark){:root{--paper:#15181d;--raised:#1d2127;--ink:#e8eaed;--soft:#a2abb5;--line:#333a43;
--accent:#6db5f2;--good:#3ecf9f;--bad:#ff8a80;--minus:#6db5f2;--plus:#ff9a66}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:1.75rem;line-height:1.25;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:44px 0 4px}
p{max-width:76ch;margin:6px 0 12px}.soft{color:var(--soft)}small,.small{font-size:.86rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:20px 0 8px;padding:0;
list-style:none}
.tiles li{background:var(--raised);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.tiles b{display:block;font-size:1.6rem;line-height:1.2;font-weight:650;font-variant-numeric:tabular-nums}
.tiles span{display:block;color:var(--soft);font-size:.86rem}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:20px;margin:12px 0;
align-items:start}
figure{margin:0;border:1px solid var(--line);border-radius:10px;overflow:hidden;background:var(--paper)}
figure svg{display:block;width:100%;height:auto}
figcaption{padding:4px 14px 12px;color:var(--soft);font-size:.86rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:12px 0;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;max-width:90ch;white-space:normal;color:var(--soft);font-size:.86rem;padding-bottom:6px}
th,td{text-align:right;padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td.text,th.text{text-align:left}thead th{color:var(--soft);font-weight:500;white-space:nowrap}
tbody th{font-weight:500;min-width:12rem}tbody th small{display:block;color:var(--soft);font-weight:400}
td.text{min-width:11rem}td.num{white-space:nowrap}
tbody tr:hover{background:var(--raised)}
.good{color:var(--good)}.bad{color:var(--bad)}.minus{color:var(--minus)}.plus{color:var(--plus)}
.gate{font-weight:600}
.continuations td{width:33%;text-align:left}.continuations th[scope=rowgroup]{text-align:left;padding-top:16px;border:0}
pre{background:var(--raised);border:1px solid var(--line);border-radius:10px;padding:14px 16px;overflow-x:auto;
font:.86rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;font-size:.9rem}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
a{color:var(--accent)}a:focus-visible,pre:focus-visible,.scroll:focus-visible{outline:2px solid var(--accent);
outline-offset:2px}
.skip{position:absolute;left:-9999px}.skip:focus{left:16px;top:8px;background:var(--raised);padding:6px 12px}
@media (max-width:600px){main{padding:20px 14px 48px}h1{font-size:1.4rem}dl{grid-template-columns:1fr}dd{margin:0 0
8px}} @media print{figure,.tiles li,pre{break-inside:avoid}}
"""


def document(title: str, body: str) -> str:
    """A whole page, which loads nothing and runs nothing."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#content">To the content</a>\n<main id="content">\n{body}\n</main>\n</body>\n</html>\n'
    )


def text(value: object) -> str:
    """Anything as text that stays text; characters that HTML cannot hold are replaced."""
    kept = "".join(c if c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff") else "\ufffd" for c in str(value))
    return escape(kept, quote=True)


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind)}>{text(words)}</p>"


def section(title: str, parts: Iterable[str]) -> str:
    """A section with its heading; nothing if it is empty."""
    inside = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{text(title)}</h2>\n{inside}\n</section>" if inside else ""


def figure(svg: str, caption: str) -> str:
    """A chart and what it shows."""
    return f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>"


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """A few large figures: (figure, what it is, what to think of it)."""
    items = "".join(
        f"<li><span>{text(name)}</span><b>{text(value)}</b><span>{text(note)}</span></li>"
        for value, name, note in entries
    )
    return f'<ul class="tiles">{items}</ul>' if items else ""


def table(
    label: str, columns: Sequence[str], rows: Iterable[tuple[str, str, Sequence[str]]], *, words: Sequence[int] = ()
) -> str:
    """A table. Each row is (its name, a note below that, its cells); ``words`` are the columns of text, not numbers."""

    def kind(number: int) -> str:
        return "text" if number in words else "num"

    head = "".join(
        f'<th scope="col"{_class("text" if i in words else "")}>{text(c)}</th>' for i, c in enumerate(columns)
    )
    body = "".join(
        f'<tr><th scope="row">{text(name)}<small>{text(note)}</small></th>'
        + "".join(f'<td class="{kind(i)}">{text(cell)}</td>' for i, cell in enumerate(cells, 1))
        + "</tr>\n"
        for name, note, cells in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def facts(entries: Iterable[tuple[str, object]]) -> str:
    """Names and values, absent ones left out."""
    items = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in entries if value not in (None, "")
    )
    return f"<dl>{items}</dl>" if items else ""


def code(source: str) -> str:
    """Source text."""
    return f'<pre tabindex="0"><code>{text(source)}</code></pre>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
