"""Contact sheets: everything shown is escaped, links are relative, the PNG holds the pictures."""

from PIL import Image

from smallworld.report import Entry, Section, write_html, write_png

HOSTILE = '<script>alert("x")</script> & "quoted" \'single\''


def entries(folder, prompt, count=1):
    (folder / "kept").mkdir(exist_ok=True)
    result = []
    for index in range(count):
        path = folder / "kept" / f"a #{index} & b.png"
        Image.new("RGB", (64, 64), (200, 10, 10)).save(path)
        result.append(Entry(path, prompt, 1.25, "note <b>"))
    return tuple(result)


def test_text_is_escaped(tmp_path):
    write_html(tmp_path / "report.html", HOSTILE, [(HOSTILE, HOSTILE)], [Section(HOSTILE, entries(tmp_path, HOSTILE))])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "note <b>" not in page
    assert page.count("&lt;script&gt;") == 7  # title, heading, fact name and value, section, alt, caption
    assert "+1.2500" in page


def test_links_are_relative_and_quoted(tmp_path):
    write_html(tmp_path / "report.html", "t", [], [Section("Kept", entries(tmp_path, "p"))])
    assert 'src="kept/a%20%230%20%26%20b.png"' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_png_shows_every_picture(tmp_path):
    write_png(
        tmp_path / "report.png", [Section("Kept", entries(tmp_path, HOSTILE + " 日本語", 8)), Section("Hidden", ())]
    )
    sheet = Image.open(tmp_path / "report.png").convert("RGB")
    red = sum(count for count, colour in sheet.getcolors(1 << 20) if colour == (200, 10, 10))
    assert red == 8 * 160 * 160
