"""Contact sheets of scored pictures: a self-contained HTML page and one PNG. All text is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageDraw, ImageFont

_TILE = 160
_LABEL = 44
_COLUMNS = 6


@dataclass(frozen=True)
class Entry:
    """One picture on a sheet; ``note`` is a second line below the prompt, for example what the oracle sees."""

    path: Path
    prompt: str
    score: float
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A titled group of pictures, shown in the given order."""

    title: str
    entries: tuple[Entry, ...]


def write_html(path: Path, title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> None:
    """Write ``path``; pictures are linked relative to it. ``facts`` are name and value pairs shown above the
    pictures.
    """
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
    body = "".join(_section_html(section, path.parent) for section in sections)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
       color: #222; background: #fafafa; }}
table {{ border-collapse: collapse; }} th {{ text-align: left; padding-right: 1rem; font-weight: 600; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 1rem; }}
figure {{ margin: 0; }}
img {{ width: 160px; height: 160px; object-fit: contain; image-rendering: pixelated; border: 1px solid #ccc; }}
.score {{ font-variant-numeric: tabular-nums; font-weight: 600; }} .note {{ color: #666; font-size: 13px; }}
</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<table>{rows}</table>
{body}
</body>
</html>
"""
    path.write_text(page, encoding="utf-8", newline="\n")


def _section_html(section: Section, folder: Path) -> str:
    figures = []
    for entry in section.entries:
        source = quote(entry.path.relative_to(folder).as_posix())
        note = f'<div class="note">{html.escape(entry.note)}</div>' if entry.note else ""
        figures.append(
            f'<figure><img src="{html.escape(source)}" alt="{html.escape(entry.prompt)}"><figcaption><span'
            f' class="score">{entry.score:+.4f}</span> {html.escape(entry.prompt)}{note}</figcaption></figure>'
        )
    return (
        f'<h2>{html.escape(section.title)} ({len(section.entries)})</h2>\n<div class="grid">{"".join(figures)}</div>\n'
    )


def write_png(path: Path, sections: Sequence[Section], columns: int = _COLUMNS) -> None:
    """Write all sections below each other as one PNG, six pictures to a row."""
    rows = sum(-(-len(section.entries) // columns) for section in sections)
    height = rows * (_TILE + _LABEL) + len(sections) * 30
    sheet = Image.new("RGB", (columns * (_TILE + 8) + 8, max(height, 1) + 8), (250, 250, 250))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    top = 4
    for section in sections:
        pen.text((8, top + 8), _plain(f"{section.title} ({len(section.entries)})"), fill=(0, 0, 0), font=font)
        top += 30
        for index, entry in enumerate(section.entries):
            left = 8 + (index % columns) * (_TILE + 8)
            with Image.open(entry.path) as picture:
                tile = _fit(picture.convert("RGB"))
            sheet.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
            lines = [f"{entry.score:+.4f}", *_wrap(entry.prompt, pen, font)][:4]
            for number, line in enumerate(lines):
                pen.text((left, top + _TILE + 1 + number * 10), _plain(line), fill=(40, 40, 40), font=font)
            if index % columns == columns - 1 or index == len(section.entries) - 1:
                top += _TILE + _LABEL
    sheet.save(path)


def _fit(picture: Image.Image) -> Image.Image:
    scale = _TILE / max(picture.size)
    # Small pictures are enlarged without smoothing, so that their pixels can be judged.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), method)


def _wrap(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    lines: list[str] = []
    for word in _plain(text).split():
        candidate = f"{lines[-1]} {word}" if lines else word
        if lines and pen.textlength(candidate, font=font) <= _TILE:
            lines[-1] = candidate
        else:
            lines.append(word[:30])
    return lines


def _plain(text: str) -> str:
    """Pillow's built-in font knows Latin-1 alone in its bitmap form."""
    return text.encode("latin-1", "replace").decode("latin-1")
