"""Which prompt an image was made from: every program's file, every place, captions, and what is no prompt."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from imagereward_core.errors import MetadataError
from imagereward_core.metadata import (
    ForeignText,
    FoundPrompt,
    NoPrompt,
    prompt_in_image,
    prompt_of,
    read_prompt,
    read_score,
    reason,
    write_score,
)
from imagereward_core.metadata.infotext import StoredScore
from tests.unit import program_files as programs
from tests.unit.program_files import EXTRAS, INFOTEXT, PROMPT, SETTINGS, chunk, comment, insert, png, tiff, with_exif

AVIF = pytest.mark.skipif(
    "avif" not in features.modules or not features.check("avif"), reason="this Pillow has no AVIF codec"
)
EXIF_FORMATS = ["jpg", "webp", pytest.param("avif", marks=AVIF)]
WORDLESS = StoredScore(5.5, "Aesthetic", None, "Aesthetic score")


def found(text, program, source="infotext"):
    return {"text": text, "source": source, "program": program}


def fields(answer):
    assert isinstance(answer, FoundPrompt), answer
    return {"text": answer.text, "source": answer.source, "program": answer.program}


# --- every program --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", programs.PNG)
def test_every_programs_png(tmp_path, name):
    program, texts = programs.PNG[name]
    path = png(tmp_path / "x.png", texts)
    assert fields(prompt_of(path)) == found(PROMPT, program)
    with Image.open(path) as image:
        assert prompt_in_image(image) == prompt_of(path)


@pytest.mark.parametrize("suffix", EXIF_FORMATS)
@pytest.mark.parametrize("name", programs.COMMENTS)
def test_every_programs_user_comment(tmp_path, name, suffix):
    program, text = programs.COMMENTS[name]
    path = with_exif(tmp_path / f"x.{suffix}", comment(text))
    assert fields(prompt_of(path)) == found(PROMPT, program)
    with Image.open(path) as image:
        assert prompt_in_image(image) == prompt_of(path)


@pytest.mark.parametrize("name", ["automatic1111", "fooocus", "comfyui", "novelai", "civitai"])
def test_the_exif_block_of_a_png(tmp_path, name):
    program, text = programs.COMMENTS[name]
    assert fields(prompt_of(png(tmp_path / "x.png", exif_block=comment(text)))) == found(PROMPT, program)


def test_fooocus_comment_in_the_first_directory(tmp_path):
    """Fooocus writes the comment, plain UTF-8, beside Software and not into the Exif directory."""
    block = tiff({0x9286: json.dumps(programs.FOOOCUS).encode(), 0x0131: b"Fooocus v2.5.5\0"})
    assert fields(prompt_of(with_exif(tmp_path / "x.jpg", block))) == found(PROMPT, "Fooocus")
    assert prompt_of(with_exif(tmp_path / "y.webp", tiff({0x9286: INFOTEXT.encode()}))).text == PROMPT


@pytest.mark.parametrize(("tag", "label"), [(0x0110, "prompt:"), (0x010F, "Prompt: "), (0x010E, "prompt:")])
def test_comfyui_keeps_its_graph_in_exif_fields_too(tmp_path, tag, label):
    block = tiff({tag: (label + json.dumps(programs.GRAPH)).encode() + b"\0"})
    assert fields(prompt_of(with_exif(tmp_path / "x.webp", block))) == found(PROMPT, "ComfyUI")


def test_comments_of_gif_and_jpeg(tmp_path):
    programs.picture().save(tmp_path / "x.gif", comment=INFOTEXT.encode())
    programs.picture().save(tmp_path / "x.jpg", comment=INFOTEXT.encode())
    for name in ("x.gif", "x.jpg"):
        assert fields(prompt_of(tmp_path / name)) == found(PROMPT, "AUTOMATIC1111")
        with Image.open(tmp_path / name) as image:
            assert prompt_in_image(image).text == PROMPT
    programs.picture().save(tmp_path / "y.gif", comment=b"Created with an editor")
    programs.picture().save(tmp_path / "y.jpg", comment=b"CREATOR: some encoder, quality = 90")
    assert prompt_of(tmp_path / "y.gif") == prompt_of(tmp_path / "y.jpg") == NoPrompt()


@pytest.mark.parametrize("name", ["automatic1111", "fooocus", "novelai", "invokeai", "comfyui"])
def test_sd_parsers_reads_the_same(tmp_path, name):
    sd_parsers = pytest.importorskip("sd_parsers")
    texts = dict(programs.PNG[name][1])
    if name == "fooocus":  # it insists on settings that are of no concern here
        more = {"base_model": "x", "base_model_hash": "y", "sampler": "euler", "steps": 1}
        texts["parameters"] = json.dumps({**programs.FOOOCUS, **more})
    if name == "comfyui":
        sampler = {**programs.GRAPH["3"]["inputs"], "sampler_name": "euler", "cfg": 7}
        graph = {**programs.GRAPH, "3": {"class_type": "KSampler", "inputs": sampler}}
        links = [[1, 7, 0, 3, 1, "CONDITIONING"], [2, 6, 0, 3, 2, "CONDITIONING"]]
        texts = {"prompt": json.dumps(graph), "workflow": json.dumps({"nodes": [], "links": links})}
    path = png(tmp_path / "x.png", texts)
    with Image.open(path) as image:
        theirs = sd_parsers.ParserManager().parse(image)
    assert [prompt.value for prompt in theirs.prompts] == [prompt_of(path).text]


def test_novelai_falls_back_to_its_comment(tmp_path):
    v4 = {"v4_prompt": {"caption": {"base_caption": "a fox", "char_captions": []}}}
    assert prompt_of(png(tmp_path / "a.png", {"Software": "NovelAI", "Comment": json.dumps(v4)})).text == "a fox"
    older = {"Software": "NovelAI", "Comment": json.dumps({"prompt": "a dog", "uc": "x"})}
    assert prompt_of(png(tmp_path / "b.png", older)).text == "a dog"
    assert prompt_of(png(tmp_path / "c.png", {"Software": "NovelAI", "Comment": "{"})) == ForeignText("NovelAI")


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a cat [ugly]", "a cat"),
        ([{"prompt": "a cat", "weight": 1}, {"prompt": "a dog", "weight": 0.5}], "a cat, a dog"),
        ([{"prompt": "a cat", "weight": 1}, {"prompt": "ugly", "weight": -1}], "a cat"),
    ],
)
def test_old_invokeai_prompts_are_without_what_is_not_wanted(tmp_path, prompt, text):
    path = png(tmp_path / "x.png", {"sd-metadata": json.dumps({"image": {"prompt": prompt}})})
    assert prompt_of(path).text == text


def test_easy_diffusions_text_file(tmp_path):
    path = png(tmp_path / "x.png")
    path.with_suffix(".txt").write_text("Prompt: a cat\nSeed: 12\nSteps: 25\nNegative Prompt: ugly\n")
    assert fields(prompt_of(path)) == found("a cat", "Easy Diffusion", "text file")
    path.with_suffix(".txt").write_text("Prompt: the word is written on a wall")
    assert prompt_of(path).text == "Prompt: the word is written on a wall"


# --- encodings ------------------------------------------------------------------------------------

CHINESE = "红墙上的蓝色方块"


@pytest.mark.parametrize("text", ["a 蓝色方块 café on a red wall", "una niña", "猫", "a café, déjà vu"])
def test_png_text_is_utf8_where_it_can_be(tmp_path, text):
    raw = chunk(b"tEXt", b"parameters\0" + f"{text}\n{SETTINGS}".encode())
    path = insert(png(tmp_path / "x.png"), raw)
    assert prompt_of(path).text == text
    with Image.open(path) as image:
        assert prompt_in_image(image).text == text


def test_png_text_is_latin_1_where_it_must_be(tmp_path):
    path = insert(png(tmp_path / "x.png"), chunk(b"tEXt", b"parameters\0" + f"a café\n{SETTINGS}".encode("latin-1")))
    assert prompt_of(path).text == "a café"
    write_score(path, WORDLESS)
    assert prompt_of(path).text == "a café"
    literal = "the letters Ã© as such"  # in tEXt they would be taken for UTF-8
    path = png(tmp_path / "y.png", {"parameters": f"{literal}\n{SETTINGS}"}, international=True)
    write_score(path, WORDLESS)
    assert prompt_of(path).text == literal


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "text", ["a cat", "猫", CHINESE, "一只猫", "кот", "한국어 고양이", "쎩", "a 🐈", f"{CHINESE}\n{SETTINGS}"]
)
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-16", "utf-8", "utf-8-sig"])
def test_unicode_comments_in_whichever_encoding(tmp_path, order, text, encoding):
    path = with_exif(tmp_path / "x.webp", comment(text, encoding, order=order))
    assert prompt_of(path).text == text.partition("\n")[0]


@pytest.mark.parametrize("code", [b"ASCII\0\0\0", bytes(8), b""])
@pytest.mark.parametrize(
    ("text", "encoding"), [("a café", "utf-8"), ("a café", "latin-1"), ("a long cat", "utf-16-le")]
)
def test_other_comments(tmp_path, code, text, encoding):
    assert prompt_of(with_exif(tmp_path / "x.jpg", comment(text, encoding, code))).text == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_text_files_in_whichever_encoding(tmp_path, encoding):
    path = png(tmp_path / "x.png")
    path.with_suffix(".txt").write_bytes("a red fox, déjà vu".encode(encoding))
    assert fields(prompt_of(path)) == found("a red fox, déjà vu", "", "text file")


def test_undecodable_text_is_no_prompt(tmp_path):
    path = with_exif(tmp_path / "x.jpg", tiff({}, {0x9286: b"UNICODE\0" + b"\xd8\xdb" * 20}))
    assert isinstance(prompt_of(path), ForeignText)


# --- captions -------------------------------------------------------------------------------------

BOORU = "masterpiece, artist:greg, character:alice, copyright:wonderland"
TAGS = "1girl, solo, red hair, artist: someone, series: some show, rating: safe"


@pytest.mark.parametrize(
    "caption", [BOORU, TAGS, "model: jane, size: large, steps: of stone", "note: this", "a {b|c} d"]
)
def test_pairs_in_a_caption_are_words(tmp_path, caption):
    path = png(tmp_path / "x.png")
    path.with_suffix(".txt").write_text(caption)
    assert fields(prompt_of(path)) == found(caption, "", "text file")
    path = png(tmp_path / "y.png", {"parameters": caption})
    write_score(path, WORDLESS)
    assert prompt_of(path).text == caption


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (INFOTEXT, PROMPT),
        (f"{PROMPT}\nSteps: 20, Seed: 2", PROMPT),
        (f"{PROMPT}\nSteps: 20", PROMPT),
        (f"{PROMPT}\nNegative prompt: blurry", PROMPT),
        (f"{BOORU}\n{SETTINGS}", BOORU),
        (f"{INFOTEXT}\nTemplate: a {{cat|dog}}", PROMPT),
        (f"{INFOTEXT}\nImageReward Score: 0.5", PROMPT),
    ],
)
def test_settings_are_no_words(tmp_path, text, prompt):
    path = png(tmp_path / "x.png")
    path.with_suffix(".txt").write_bytes(text.replace("\n", "\r\n").encode())
    assert prompt_of(path).text == prompt
    assert prompt_of(png(tmp_path / "y.png", {"parameters": text})).text == prompt


def test_caption_files(tmp_path):
    path = png(tmp_path / "x.png")
    path.with_suffix(".caption").write_text("from .caption")
    assert read_prompt(path) == FoundPrompt("from .caption", "text file")
    path.with_suffix(".txt").write_text("  \n")
    assert read_prompt(path) == FoundPrompt("from .caption", "text file")
    path.with_suffix(".txt").write_text("from .txt")
    assert read_prompt(path) == FoundPrompt("from .txt", "text file")
    path = png(tmp_path / "x.png", {"parameters": INFOTEXT})
    assert prompt_of(path).text == PROMPT and prompt_of(path, caption_first=True).text == "from .txt"
    path.with_suffix(".txt").write_text(json.dumps(programs.FOOOCUS))
    assert prompt_of(path, caption_first=True) == FoundPrompt(PROMPT, "text file")


def test_an_infotext_without_a_prompt_leaves_the_caption(tmp_path):
    path = png(tmp_path / "x.png", {"parameters": f"Negative prompt: blurry\n{SETTINGS}"})
    assert prompt_of(path) == NoPrompt("AUTOMATIC1111 was given an empty prompt") and read_prompt(path) is None
    path.with_suffix(".txt").write_text("a fox")
    assert prompt_of(path) == FoundPrompt("a fox", "text file")


def test_an_empty_text_file(tmp_path):
    path = png(tmp_path / "x.png")
    assert reason(prompt_of(path)) == "the image has no infotext and no text file beside it"
    path.with_suffix(".txt").write_text("")
    assert reason(prompt_of(path)) == "x.txt beside it is empty"


# --- what is no prompt ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        EXTRAS,
        "Postprocess upscale by: 4",
        "Postprocess upscale to: 512x512, Postprocess crop to: True, Postprocess upscaler: Lanczos, Rembg: u2net",
        "GFPGAN visibility: 1.0",
        "CodeFormer visibility: 0.5, CodeFormer weight: 0.2",
        "Rembg: isnet-general-use",
    ],
)
def test_the_extras_tabs_line(tmp_path, text):
    path = with_exif(tmp_path / "x.jpg", comment(text))
    assert prompt_of(path) == ForeignText("the Extras tab of a web UI")
    path.with_suffix(".txt").write_text("a fox")
    assert prompt_of(path) == FoundPrompt("a fox", "text file")


@pytest.mark.parametrize("text", ["ImageReward: 0.5812", "CLIP score: 0.2, CLIP score note: cut", "Screenshot", " \n "])
def test_our_own_scores_and_cameras_words_are_no_prompt(tmp_path, text):
    assert prompt_of(with_exif(tmp_path / "x.jpg", comment(text))) == NoPrompt()


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ('{"software": "Some Studio 3", "seed": 1}', "Some Studio 3"),
        ('{"a": 1}', "an unknown program"),
        ("{}", "an unknown program"),
        ('[{"prompt": 1}]', "an unknown program"),
        ('{"prompt": "a cat", "seed": ', "an unknown program"),
        ('{"a":' * 100_000, "an unknown program"),
        ('{"sui_image_params": {"seed": 1}}', "SwarmUI"),
        ("<?xml version='1.0'?><x/>", "an unknown program"),
    ],
)
def test_other_programs_text_is_named_and_never_words(tmp_path, text, program):
    path = png(tmp_path / "x.png", {"parameters": text})
    answer = prompt_of(path)
    assert answer == ForeignText(program) and read_prompt(path) is None
    assert program in reason(answer)
    with Image.open(path) as image:
        assert prompt_in_image(image) == answer


@pytest.mark.parametrize("data", [None, 1, "x", [], {"x": 1}, {"1": {}}, {"1": {"class_type": 1, "inputs": 2}}])
def test_strange_json_in_every_place(tmp_path, data):
    for name in ("parameters", "invokeai_metadata", "sd-metadata", "prompt", "workflow", "Comment"):
        path = png(tmp_path / "x.png", {name: json.dumps(data), "Software": "NovelAI"})
        assert not isinstance(prompt_of(path), FoundPrompt) or json.dumps(data) in ("1", '"x"', "null")


# --- a score leaves the prompt alone --------------------------------------------------------------

SCORES = [WORDLESS, StoredScore(0.5, "ImageReward-v1.0", "some other words, two: of them")]


def every_file(folder):
    for name, (_, texts) in programs.PNG.items():
        yield png(folder / f"{name}.png", texts)
    for suffix in ("jpg", "webp", *(["avif"] if features.check("avif") else [])):
        for name, (_, text) in programs.COMMENTS.items():
            yield with_exif(folder / f"{name}.{suffix}", comment(text))
        yield with_exif(folder / f"extras.{suffix}", comment(EXTRAS))
        yield with_exif(folder / f"booru.{suffix}", comment(BOORU))
        yield with_exif(folder / f"two.{suffix}", comment(f"{PROMPT}\nSteps: 20, Seed: 2"))
        yield with_exif(folder / f"empty.{suffix}", comment(SETTINGS))
        yield with_exif(folder / f"graph.{suffix}", tiff({0x0110: b"prompt:" + json.dumps(programs.GRAPH).encode()}))
        yield with_exif(folder / f"first.{suffix}", tiff({0x9286: INFOTEXT.encode()}))
        captioned = with_exif(folder / f"captioned {suffix}.{suffix}", comment(EXTRAS))
        captioned.with_suffix(".txt").write_text("a (red:1.2) fox")
        yield captioned
    programs.picture().save(folder / "comment.jpg", comment=INFOTEXT.encode())
    yield folder / "comment.jpg"
    yield png(folder / "exif.png", exif_block=comment(INFOTEXT))
    yield png(folder / "exif json.png", exif_block=comment(json.dumps(programs.FOOOCUS)))
    yield png(folder / "unreadable.png", {"workflow": '{"nodes": []}'})
    for name, caption in (("plain", "a red fox"), ("syntax", "a (red:1.2) fox"), ("pairs", BOORU)):
        path = png(folder / f"caption {name}.png")
        path.with_suffix(".txt").write_text(caption)
        yield path


@pytest.mark.parametrize("score", SCORES)
def test_writing_a_score_never_changes_the_prompt(tmp_path, score):
    written = 0
    for path in every_file(tmp_path):
        before = prompt_of(path)
        for value in (0.25, 1.5):
            try:
                write_score(path, StoredScore(value, score.model, score.prompt, score.key))
            except MetadataError as error:
                assert "JSON" in str(error), path
                continue
            written += 1
            assert read_score(path, score.key).value == value
            assert prompt_of(path) == before, path
            if isinstance(before, FoundPrompt):
                assert prompt_of(path).program == before.program, path
    assert written > 60  # fewer where Pillow cannot make an AVIF


@pytest.mark.parametrize("suffix", ["png", *EXIF_FORMATS])
@settings(max_examples=60, deadline=None)
@given(
    prompt=st.one_of(
        st.text('ab,:"\\ ü猫{}()<>', min_size=1, max_size=40), st.sampled_from([PROMPT, BOORU, TAGS, "(a:1.2) [b]"])
    ),
    settings_line=st.sampled_from(["", SETTINGS, "Steps: 20, Seed: 2"]),
    words=st.one_of(st.none(), st.text('ab,:" 猫', max_size=20)),
)
def test_whatever_the_prompt(tmp_path_factory, suffix, prompt, settings_line, words):
    path = tmp_path_factory.mktemp("any") / f"x.{suffix}"
    text = f"{prompt}\n{settings_line}".rstrip("\n")
    if suffix == "png":
        png(path, {"parameters": text}, international=True)
    else:
        with_exif(path, comment(text))
    before = prompt_of(path)
    if before == NoPrompt():
        return  # such an image takes the score's prompt
    try:
        write_score(path, StoredScore(0.5, "m", words, "CLIP score"))
    except MetadataError:
        return
    assert prompt_of(path) == before


def test_the_captions_own_words_may_be_repeated_in_the_image(tmp_path):
    path = png(tmp_path / "x.png")
    path.with_suffix(".txt").write_text("a (red:1.2) fox")
    write_score(path, StoredScore(1, "m", "a red fox"))
    assert prompt_of(path) == FoundPrompt("a (red:1.2) fox", "text file")
    path.with_suffix(".txt").unlink()
    assert prompt_of(path) == FoundPrompt("a red fox", "infotext")


# --- plain words, in one place --------------------------------------------------------------------


def test_words_are_plain():
    assert FoundPrompt("a (red:1.3) cat, <lora:x:1>", "infotext").words == "a red cat"


def test_the_command_line_scores_the_words_and_names_the_rest(tmp_path):
    """Through the entry that `imagereward score` uses."""
    from imagereward_core.files import ScoreJob, score_files
    from imagereward_core.registry import get

    class Scorer:
        batch_size = 8

        def features_key(self):
            return ()

        def pixels_from_image(self, image):
            return image

        def score_pairs(self, prompts, images):
            return [float(len(prompt)) for prompt in prompts]

    paths = [
        png(tmp_path / "comfy.png", programs.PNG["comfyui"][1]),
        png(tmp_path / "syntax.png", {"parameters": f"a (red:1.3) cat <lora:x:1>\n{SETTINGS}"}),
        with_exif(tmp_path / "extras.jpg", comment(EXTRAS)),
        png(tmp_path / "swarm.png", {"parameters": '{"sui_image_params": {"seed": 1}}'}),
        png(tmp_path / "none.png"),
    ]
    results = {item.path.name: item for item in score_files(paths, ScoreJob(get("ImageReward-v1.0"), "m"), Scorer)}
    assert results["comfy.png"].prompt == PROMPT and results["comfy.png"].score == len(PROMPT)
    assert results["syntax.png"].prompt == "a red cat"
    assert results["extras.jpg"].score is None and "written by the Extras tab" in results["extras.jpg"].error
    assert results["swarm.png"].score is None and "written by SwarmUI" in results["swarm.png"].error
    assert results["none.png"].error == (
        "no prompt: the image has no infotext and no text file beside it; give one with --prompt"
    )
