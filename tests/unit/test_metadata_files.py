"""Scores in real files of every format: pixels and all other metadata stay, independent readers find every field."""

import contextlib
import io
import os
import random
import stat
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin, features

from imagereward_core.errors import MetadataError
from imagereward_core.metadata import read_infotext, read_prompt, read_score, write_score
from imagereward_core.metadata.formats import exif, read_text, write_text
from imagereward_core.metadata.infotext import Infotext, StoredScore, build_infotext, parse_infotext

INFOTEXT = """a cat, (sharp:1.2)
Negative prompt: blurry
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 24x16, \
Model hash: 45dee52b, Model: real, Hires prompt: "a: b, c\\nd", Version: v1.10.1"""
SCORE = StoredScore(0.5811622738838196, "ImageReward-v1.0", "a cat, sharp")
EXPECTED = INFOTEXT + ", ImageReward: 0.5812, ImageReward model: ImageReward-v1.0"
AVIF = pytest.mark.skipif(
    "avif" not in features.modules or not features.check("avif"), reason="this Pillow has no AVIF codec"
)
FORMATS = ["png", "jpg", "webp", pytest.param("avif", marks=AVIF)]


def picture(mode="RGB", size=(24, 16)):
    noise = random.Random(0).randbytes(size[0] * size[1] * len(mode))
    return Image.frombytes(mode, size, noise)


def user_comment(text, maker_note=False):
    """An EXIF block as Pillow writes it; camera fields beside the comment."""
    block = Image.Exif()
    block[0x010F] = "A camera"
    fields = {0x9286: b"UNICODE\0" + text.encode("utf-16-be"), 0x829A: TiffImagePlugin.IFDRational(1, 250)}
    if maker_note:
        fields[0x927C] = b"maker's own note, of more than four bytes"
    block[0x8769] = fields
    return block.tobytes()


def saved(folder, suffix, text=None, **options):
    path = folder / f"cat.{suffix}"
    if text is not None and suffix == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", text)
        options["pnginfo"] = info
    elif text is not None:
        options["exif"] = user_comment(text)
    picture(options.pop("mode", "RGB")).save(path, **options)
    return path


def pixels(path):
    with Image.open(path) as image:
        return image.mode, image.size, image.tobytes()


def pillow_text(path):
    """The infotext as Pillow reads it, which is how AUTOMATIC1111 gets at it."""
    with Image.open(path) as image:
        image.load()
        if "parameters" in image.info:
            return image.info["parameters"]
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"UNICODE\0"
        return comment[8:].decode("utf-16-be")


@pytest.mark.parametrize("suffix", FORMATS)
def test_write_and_rewrite(tmp_path, suffix):
    path = saved(tmp_path, suffix, INFOTEXT)
    before = pixels(path)
    assert read_infotext(path) == INFOTEXT
    write_score(path, SCORE)
    assert pillow_text(path) == EXPECTED
    assert read_score(path) == StoredScore(0.5812, "ImageReward-v1.0", "a cat, sharp")
    size = path.stat().st_size
    write_score(path, StoredScore(-0.1, "ImageReward-v1.0", "a cat, sharp"))
    assert pillow_text(path) == EXPECTED.replace("0.5812", "-0.1000")
    assert path.stat().st_size <= size + 4  # rewriting leaves nothing behind
    write_score(path, StoredScore(0.5, "CLIP", "a cat, sharp", key="CLIP"))
    assert pillow_text(path).count("ImageReward: -0.1000") == 1
    assert read_score(path, "CLIP").value == 0.5
    assert pixels(path) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_without_metadata(tmp_path, suffix):
    path = saved(tmp_path, suffix)
    before = pixels(path)
    assert read_infotext(path) is None and read_prompt(path) is None and read_score(path) is None
    write_score(path, StoredScore(1, "ImageReward-v1.0", 'ünïcode 猫, "quoted": yes'))
    assert (
        pillow_text(path)
        == 'ünïcode 猫, "quoted": yes\nSize: 24x16, ImageReward: 1.0000, ImageReward model: ImageReward-v1.0'
    )
    assert read_prompt(path).text == 'ünïcode 猫, "quoted": yes'
    assert pixels(path) == before
    write_score(path, StoredScore(2, "ImageReward-v1.0", 'ünïcode 猫, "quoted": yes'))
    assert read_score(path).value == 2
    assert pixels(path) == before


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=60, deadline=None)
@given(
    prompt=st.one_of(
        st.text('ab,:"\\\n ü猫{}', max_size=40),
        st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=40),
    ),
    value=st.floats(-9, 9).map(lambda number: round(number, 4) + 0.0),
)
def test_any_prompt_survives_in_any_format(suffix, prompt, value):
    buffer = io.BytesIO()
    picture().save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    text = build_infotext(Infotext("", "", (("Steps", "1"), ("Seed", "2"), ("Note", prompt))))
    data = write_text(buffer.getvalue(), text)
    assert read_text(data) == text
    assert parse_infotext(read_text(data)).get("Note") == prompt
    assert read_text(write_text(data, text + ", Score: 1")) == text + ", Score: 1"


# --- independent readers --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_sd_parsers_reads_every_field(monkeypatch, tmp_path, suffix):
    sd_parsers = pytest.importorskip("sd_parsers")
    # sd-parsers keeps an image's text by its id(), which a later image, of an earlier test too, may bear again
    monkeypatch.setattr("sd_parsers.extractors._jpeg_usercomment._image_id", None)
    plain = INFOTEXT.replace(', Hires prompt: "a: b, c\\nd"', "")  # sd-parsers knows no quoted values
    path = saved(tmp_path, suffix, plain)
    old = Image.open(io.BytesIO(path.read_bytes()))
    before = sd_parsers.ParserManager().parse(old)
    write_score(path, SCORE)
    new = Image.open(path)  # beside the old one: sd-parsers takes two images with the same id() for one
    after = sd_parsers.ParserManager().parse(new)
    assert after.metadata.pop("ImageReward") == "0.5812"
    assert after.metadata.pop("ImageReward model") == "ImageReward-v1.0"
    assert after.metadata == before.metadata
    assert after.samplers == before.samplers
    assert [prompt.value for prompt in after.prompts] == ["a cat, (sharp:1.2)"]
    assert [prompt.value for prompt in after.negative_prompts] == ["blurry"]


@pytest.mark.parametrize("suffix", ["jpg", "webp", pytest.param("avif", marks=AVIF)])
def test_piexif_reads_it_as_the_host_does(tmp_path, suffix):
    piexif = pytest.importorskip("piexif")
    helper = pytest.importorskip("piexif.helper")
    for text in (None, INFOTEXT):
        path = saved(tmp_path, suffix, text)
        write_score(path, SCORE)
        with Image.open(path) as image:
            fields = piexif.load(image.info["exif"])
        expected = (
            EXPECTED if text else "a cat, sharp\nSize: 24x16, ImageReward: 0.5812, ImageReward model: ImageReward-v1.0"
        )
        assert helper.UserComment.load(fields["Exif"][piexif.ExifIFD.UserComment]) == expected
        if text:
            assert fields["0th"][piexif.ImageIFD.Make] == b"A camera"
            assert fields["Exif"][piexif.ExifIFD.ExposureTime] == (1, 250)


# --- PNG ------------------------------------------------------------------------------------------


def chunks(data):
    position, found = 8, []
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert struct.unpack_from(">I", data, position + 8 + length)[0] == zlib.crc32(kind + content)
        found.append((kind, content))
        position += 12 + length
    return found


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_png_keeps_every_other_chunk_in_its_place(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "a host")
    info.add_text("parameters", INFOTEXT)
    info.add_itxt("Comment", "ünï 猫", "de", "Kommentar")
    info.add_text("workflow", "{}" * 99, zip=True)
    path = tmp_path / "cat.png"
    picture().save(path, pnginfo=info, dpi=(72, 72), icc_profile=b"x" * 200)
    before = chunks(path.read_bytes())
    write_score(path, SCORE)
    after = chunks(path.read_bytes())
    assert [kind for kind, _ in after] == [kind for kind, _ in before]
    assert [pair for pair in after if not pair[1].startswith(b"parameters")] == [
        pair for pair in before if not pair[1].startswith(b"parameters")
    ]
    assert (b"tEXt", b"parameters\0" + EXPECTED.encode("latin-1")) in after


def test_png_uses_itxt_beyond_latin_1(tmp_path):
    path = saved(tmp_path, "png", INFOTEXT.replace("cat", "chât"))
    write_score(path, SCORE)
    assert [kind for kind, content in chunks(path.read_bytes()) if content.startswith(b"parameters")] == [b"tEXt"]
    path = saved(tmp_path, "png", INFOTEXT.replace("cat", "猫"))
    write_score(path, SCORE)
    assert [kind for kind, content in chunks(path.read_bytes()) if content.startswith(b"parameters")] == [b"iTXt"]
    assert pillow_text(path).startswith("a 猫")


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(INFOTEXT.encode())),
        png_chunk(b"iTXt", b"parameters\0\1\0en\0x\0" + zlib.compress(INFOTEXT.encode())),
        png_chunk(b"iTXt", b"parameters\0\0\0\0\0" + INFOTEXT.encode()),
    ],
)
def test_png_reads_compressed_and_late_text(tmp_path, chunk):
    plain = saved(tmp_path, "png").read_bytes()
    end = plain.index(b"IEND") - 4
    path = tmp_path / "late.png"
    path.write_bytes(plain[:end] + chunk + plain[end:] + b"bytes after the end")
    assert read_infotext(path) == INFOTEXT
    write_score(path, SCORE)
    assert pillow_text(path) == EXPECTED
    assert path.read_bytes().endswith(b"bytes after the end")


def test_png_text_bomb(tmp_path):
    plain = saved(tmp_path, "png").read_bytes()
    bomb = png_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(65 << 20)))
    path = tmp_path / "bomb.png"
    path.write_bytes(plain[:33] + bomb + plain[33:])
    with pytest.raises(MetadataError, match="64 MiB"):
        read_infotext(path)


def test_png_with_the_text_twice_has_it_once_afterwards(tmp_path):
    plain = saved(tmp_path, "png").read_bytes()
    path = tmp_path / "twice.png"
    path.write_bytes(
        plain[:33]
        + png_chunk(b"tEXt", b"parameters\0old")
        + png_chunk(b"tEXt", b"parameters\0" + INFOTEXT.encode())
        + plain[33:]
    )
    write_score(path, SCORE)
    assert pillow_text(path) == EXPECTED
    assert path.read_bytes().count(b"parameters\0") == 1


def test_apng_keeps_its_frames(tmp_path):
    path = tmp_path / "cat.png"
    frames = [picture(), picture().rotate(180)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    write_score(path, SCORE)
    with Image.open(path) as image:
        assert image.n_frames == 2
        image.seek(1)
        assert image.convert("RGB").tobytes() == frames[1].tobytes()


# --- EXIF -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "webp", pytest.param("avif", marks=AVIF)])
def test_camera_fields_stay(tmp_path, suffix):
    path = tmp_path / f"cat.{suffix}"
    picture().save(path, exif=user_comment(INFOTEXT, maker_note=True))
    write_score(path, StoredScore(0.5, "a much longer name of a model " * 9, "another prompt"))
    with Image.open(path) as image:
        block = image.getexif()
        assert block[0x010F] == "A camera"
        assert block.get_ifd(0x8769)[0x829A] == pytest.approx(1 / 250)
        assert block.get_ifd(0x8769)[0x927C] == b"maker's own note, of more than four bytes"
    assert read_score(path).prompt == "another prompt"


def test_exif_without_a_comment_gets_one(tmp_path):
    block = Image.Exif()
    block[0x0112] = 6
    block[0x0131] = "editor"
    path = tmp_path / "cat.jpg"
    picture().save(path, exif=block.tobytes())
    write_score(path, SCORE)
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6
        assert image.getexif()[0x0131] == "editor"
    assert read_score(path).value == 0.5812


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"UNICODE\0" + "cat 猫".encode("utf-16-be"), "cat 猫"),
        (b"UNICODE\0" + "cat 猫".encode("utf-16-le"), "cat 猫"),
        (b"UNICODE\0" + "cat 猫".encode("utf-16"), "cat 猫"),
        (b"ASCII\0\0\0cat", "cat"),
        (b"\0" * 8 + "cät".encode(), "cät"),
        (b"JIS\0\0\0\0\0" + "猫".encode("iso2022_jp"), "猫"),
        (b"cat without a code", "cat without a code"),
        (b"UNICODE\0", None),
    ],
)
def test_comments_of_other_writers(order, comment, text):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    exif_offset, data_offset = 26, 44
    block = mark + struct.pack(order + "I", 8)
    block += struct.pack(order + "HHHIII", 1, 0x8769, 4, 1, exif_offset, 0)
    block += struct.pack(order + "HHHIII", 1, 0x9286, 7, len(comment), data_offset, 0) + comment
    assert exif.read_comment(block) == text
    assert exif.read_comment(exif.with_comment(block, "new 猫")) == "new 猫"
    assert exif.read_comment(exif.with_comment(block, "longer " * 99)) == "longer " * 99


@given(st.binary(max_size=80))
def test_damaged_exif_is_an_error_of_ours(tail):
    for head in (b"", b"MM\0*", b"II*\0", b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a"):
        with contextlib.suppress(MetadataError):
            assert isinstance(exif.read_comment(head + tail), (str, type(None)))
            exif.with_comment(head + tail, "text")


def test_jpeg_keeps_its_image_data_and_other_segments(tmp_path):
    path = tmp_path / "cat.jpg"
    picture().save(path, icc_profile=b"p" * 99, comment=b"a comment", quality=40, progressive=True)
    before = path.read_bytes()
    write_score(path, SCORE)
    after = path.read_bytes()
    place = after.index(b"\xff\xe1")
    (length,) = struct.unpack_from(">H", after, place + 2)
    assert after[:place] + after[place + 2 + length :] == before


def test_jpeg_refuses_more_than_a_segment_holds(tmp_path):
    path = saved(tmp_path, "jpg")
    before = path.read_bytes()
    with pytest.raises(MetadataError, match=r"cat\.jpg.*64 KiB"):
        write_score(path, StoredScore(1, "m", "long " * 10_000))
    assert path.read_bytes() == before


# --- WebP and AVIF --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"lossless": True}),
        ("RGBA", {}),
        ("RGBA", {"lossless": True}),
        ("RGB", {"xmp": b"<x/>", "icc_profile": b"p" * 9}),
    ],
)
def test_every_kind_of_webp(tmp_path, mode, options):
    path = saved(tmp_path, "webp", mode=mode, **options)
    before = pixels(path)
    write_score(path, SCORE)
    assert pixels(path) == before
    assert read_score(path).value == 0.5812
    data = path.read_bytes()
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    with Image.open(path) as image:
        assert image.info.get("xmp") == options.get("xmp")
        assert image.info.get("icc_profile") == options.get("icc_profile")


def test_animated_webp(tmp_path):
    path = tmp_path / "cat.webp"
    picture().save(path, save_all=True, append_images=[picture().rotate(180)], duration=100, lossless=True)
    write_score(path, SCORE)
    with Image.open(path) as image:
        assert image.n_frames == 2
    assert read_score(path).value == 0.5812


@AVIF
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("xmp", [None, b"<x:xmpmeta/>"])
def test_avif_gets_an_item_and_keeps_the_others(tmp_path, mode, xmp):
    options = {"xmp": xmp} if xmp else {}
    path = saved(tmp_path, "avif", mode=mode, icc_profile=None, **options)
    before = pixels(path)
    for value, name in (
        (0.5, "short"),
        (-0.25, "a longer name " * 20),
        (1.25, "short"),
        (1.5, "an even longer name " * 40),
    ):
        write_score(path, StoredScore(value, name, "a cat"))
        assert read_score(path).value == value
        assert pillow_text(path) == read_infotext(path)
        assert pixels(path) == before
    with Image.open(path) as image:
        assert image.info.get("xmp") == xmp


# --- files ----------------------------------------------------------------------------------------


def test_prompt_from_the_text_file_beside(tmp_path):
    path = saved(tmp_path, "png")
    (tmp_path / "cat.txt").write_bytes(
        "\ufeffa cät\r\nby the sea\r\nNegative prompt: dog\r\nSteps: 1, Seed: 2, Size: 3x3\r\n".encode()
    )
    found = read_prompt(path)
    assert (found.text, found.source) == ("a cät\nby the sea", "text file")
    (tmp_path / "cat.txt").write_bytes("a cät".encode("cp1252"))
    assert read_prompt(path).text == "a cät"
    path = saved(tmp_path, "png", INFOTEXT)
    assert (read_prompt(path).text, read_prompt(path).source) == ("a cat, (sharp:1.2)", "infotext")


def test_fooocus_json_gives_its_prompt_and_stays(tmp_path):
    path = saved(tmp_path, "png", '{"prompt": "a cat", "seed": 1}')
    before = path.read_bytes()
    assert read_prompt(path).text == "a cat"
    with pytest.raises(MetadataError, match=r"cat\.png.*JSON"):
        write_score(path, SCORE)
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", ["gif", "bmp", "tiff"])
def test_formats_that_hold_no_score(tmp_path, suffix):
    path = saved(tmp_path, suffix)
    assert read_infotext(path) is None
    before = path.read_bytes()
    with pytest.raises(MetadataError, match=rf"cat\.{suffix}: only PNG, JPEG, WebP and AVIF"):
        write_score(path, SCORE)
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_errors_and_stay(tmp_path, suffix):
    data = saved(tmp_path, suffix, INFOTEXT).read_bytes()
    path = tmp_path / f"damaged.{suffix}"
    scored = 0
    for length in range(0, min(len(data), 1200), 7):
        path.write_bytes(data[:length])
        try:
            write_score(path, SCORE)
            scored += 1
        except MetadataError:
            assert path.read_bytes() == data[:length]
    # JPEG and AVIF metadata can be whole in a cut file; PNG and WebP say how long they are
    assert scored == 0 or suffix in ("jpg", "avif")


@pytest.mark.parametrize("suffix", FORMATS)
def test_flipped_bytes_never_crash(tmp_path, suffix):
    data = saved(tmp_path, suffix, INFOTEXT).read_bytes()
    generator = random.Random(1)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[generator.randrange(min(len(data), 700))] = generator.randrange(256)
        with contextlib.suppress(MetadataError):
            text = read_text(bytes(damaged))
            assert text is None or isinstance(text, str)
            write_text(bytes(damaged), "a text")


def test_missing_file(tmp_path):
    with pytest.raises(MetadataError, match=r"nothing\.png"):
        read_infotext(tmp_path / "nothing.png")


@pytest.mark.parametrize("text", ["with \0 inside", "half \ud800 pair"])
def test_text_no_format_holds(tmp_path, text):
    data = saved(tmp_path, "png").read_bytes()
    with pytest.raises(MetadataError, match="cannot be stored"):
        write_text(data, text)


def test_mode_and_times_stay(tmp_path):
    path = saved(tmp_path, "png", INFOTEXT)
    os.chmod(path, 0o640)
    os.utime(path, ns=(10**18, 10**18 + 123456700))
    write_score(path, SCORE)
    after = path.stat()
    assert after.st_mtime_ns == 10**18 + 123456700
    if os.name == "posix":
        assert stat.S_IMODE(after.st_mode) == 0o640


def test_a_failed_replacement_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = saved(tmp_path, "png", INFOTEXT)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MetadataError, match="No space left"):
        write_score(path, SCORE)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["cat.png"]


def test_a_file_changed_meanwhile_is_kept(tmp_path, monkeypatch):
    path = saved(tmp_path, "png", INFOTEXT)
    real = os.fsync

    def change(handle):
        path.write_bytes(b"the user's new version")
        real(handle)

    monkeypatch.setattr(os, "fsync", change)
    with pytest.raises(MetadataError, match="changed by another program"):
        write_score(path, SCORE)
    assert path.read_bytes() == b"the user's new version"
    assert [entry.name for entry in tmp_path.iterdir()] == ["cat.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_write_protected(tmp_path):
    path = saved(tmp_path, "png", INFOTEXT)
    os.chmod(path, 0o444)
    with pytest.raises(MetadataError, match="write-protected"):
        write_score(path, SCORE)


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_link_stays_a_link(tmp_path):
    path = saved(tmp_path, "png", INFOTEXT)
    link = tmp_path / "link.png"
    link.symlink_to(path)
    write_score(link, SCORE)
    assert link.is_symlink()
    assert read_score(path).value == 0.5812
