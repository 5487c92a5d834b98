"""Prompts and images in; the order in which they are used."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image, PngImagePlugin, features

from imagereward_core.duel_files import stored_prompt
from imagereward_core.metadata.formats import exif
from refl.anchor import AnchorSet, image_anchor
from refl.data import captioned_images, load_images, load_prompts, sample_prompt, split
from refl.errors import PromptDataError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps([{"text": "one"}, {"text": "two "}, {"text": "one"}])),
        ("b.json", json.dumps(["one", "two"])),
        ("c.jsonl", '{"text": "one"}\n\n{"text": "two"}\n'),
        ("d.txt", "\ufeffone\n\n  two\n"),
        ("e.csv", 'id,text\n1,one\n2,"two"\n'),
        ("f.csv", "one\ntwo\n"),
    ],
)
def test_every_format(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_prompts(str(tmp_path / name)) == ["one", "two"]


def test_named_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"caption": "one", "text": "no"}')
    assert load_prompts(str(tmp_path / "a.jsonl"), column="caption") == ["one"]
    (tmp_path / "a.csv").write_text("x,caption\n1,one\n")
    assert load_prompts(str(tmp_path / "a.csv"), column="caption") == ["one"]


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.json", "[]", "no prompt"),
        ("a.json", '{"text": "one"}', "must hold a JSON list"),
        ("a.json", "[1", "not valid JSON"),
        ("a.json", '[{"title": "one"}]', r"found \['title'\].*--caption_column"),
        ("a.txt", "  \n\n", "no prompt"),
        ("a.csv", "", "no prompt"),
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_bad_files_are_named(tmp_path, name, text, word):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PromptDataError, match=word):
        load_prompts(str(tmp_path / name))


def test_missing_and_empty_sources():
    with pytest.raises(PromptDataError, match="no such prompt file"):
        load_prompts("/nowhere/prompts.json")
    with pytest.raises(PromptDataError, match="--train_data"):
        load_prompts(prompts=["", "  "])


def picture(path, prompt=None, sidecar=None, colour=(10, 20, 30), size=(40, 30)):
    image = Image.new("RGB", size, colour)
    options = {}
    if prompt and path.suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("parameters", prompt)
    elif prompt:
        options["exif"] = exif.PREFIX + exif.with_comment(b"", prompt)  # Pillow 9 cannot write this field
    image.save(path, **options)
    if sidecar:
        path.with_suffix(".txt").write_text(sidecar)


def test_prompts_from_a_folder_of_generated_images(tmp_path):
    infotext = "a red cat <lora:x:0.8>,\nsecond line\nNegative prompt: blurry\nSteps: 20, Sampler: DDIM, Seed: 1"
    picture(tmp_path / "a.png", infotext)
    picture(tmp_path / "b.jpg", "a blue dog\nSteps: 20, Seed: 2")
    picture(tmp_path / "c.webp", sidecar="from the text file")
    picture(tmp_path / "d.png")
    picture(tmp_path / "e.png", "Steps: 20, Seed: 3")
    (tmp_path / "f.png").write_bytes(b"not an image")
    found = {path.name: caption for path, caption in captioned_images(tmp_path)}
    assert found == {"a.png": "a red cat, second line", "b.jpg": "a blue dog", "c.webp": "from the text file"}
    assert load_prompts(str(tmp_path)) == ["a red cat, second line", "a blue dog", "from the text file"]
    assert stored_prompt(tmp_path / "f.png") == ""


def test_a_folder_is_searched_as_scoring_searches_it(tmp_path):
    """Linked folders are followed (outputs moved to another disk), contact sheets are no pictures of a prompt."""
    settings = "Steps: 20, Sampler: Euler a, Seed: 1, Size: 64x64"
    outputs, disk = tmp_path / "outputs", tmp_path / "disk"
    for folder in (outputs / "txt2img-grids", disk):
        folder.mkdir(parents=True)
    picture(outputs / "00001.png", f"a red fox\n{settings}")
    picture(outputs / "grid-0001.png", f"a grid\n{settings}")
    picture(outputs / "txt2img-grids" / "00002.png", f"a grid\n{settings}")
    picture(disk / "00003.png", f"two cats\n{settings}")
    try:
        (outputs / "linked").symlink_to(disk, target_is_directory=True)
        (disk / "back").symlink_to(outputs, target_is_directory=True)
    except OSError:
        pytest.skip("links cannot be made here")
    assert [caption for _, caption in captioned_images(outputs)] == ["a red fox", "two cats"]
    assert load_prompts(str(outputs)) == ["a red fox", "two cats"]


def test_captions_are_the_cores_answer(tmp_path, caplog):
    """One reader of prompts for scoring and for training: plain words, every format, no settings, no foreign text."""
    settings = "Steps: 20, Sampler: Euler a, Seed: 1, Size: 64x64"
    picture(tmp_path / "a.png", sidecar=f"a (red:1.2) fox <lora:x:1>\nNegative prompt: blurry\n{settings}")
    picture(tmp_path / "b.png", '{"prompt": "a blue square", "negative_prompt": "blurry", "full_prompt": []}')
    picture(tmp_path / "c.png", '{"sui_image_params": {}}')
    picture(tmp_path / "d.jpg", "Postprocess upscale by: 2, Postprocess upscaler: R-ESRGAN 4x+")
    picture(tmp_path / "e.png", f"from the image\n{settings}", sidecar="from the caption")
    picture(tmp_path / "f.gif")
    (tmp_path / "f.caption").write_bytes("a grüne Katze".encode("utf-16"))
    text = b"UNICODE\0" + f"红墙上的蓝色方块\nNegative prompt: blurry\n{settings}".encode("utf-16-le")
    block = b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0" + b"\x01\0\x86\x92\x07\0"
    block += len(text).to_bytes(4, "little") + b"\x2c\0\0\0\0\0\0\0" + text
    Image.new("RGB", (8, 8)).save(tmp_path / "g.webp", exif=exif.PREFIX + block)
    Image.new("RGB", (8, 8)).save(tmp_path / ".hidden.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    found = {path.name: caption for path, caption in captioned_images(tmp_path)}
    assert found == {
        "a.png": "a red fox",
        "b.png": "a blue square",
        "e.png": "from the caption",
        "f.gif": "a grüne Katze",
        "g.webp": "红墙上的蓝色方块",
    }
    assert "bad.png" in caplog.text and "left out" in caplog.text
    assert stored_prompt(tmp_path / "g.webp") == "红墙上的蓝色方块"


def test_captions_of_avif_files(tmp_path):
    if "avif" not in features.modules or not features.check("avif"):
        pytest.skip("this Pillow has no AVIF codec")
    for number in range(2):
        text = f"a red fox number {number}\nSteps: 1, Seed: 2, Size: 8x8"
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.avif", exif=exif.PREFIX + exif.with_comment(b"", text))
    assert load_prompts(str(tmp_path)) == ["a red fox number 0", "a red fox number 1"]
    assert load_images([tmp_path / "0.avif"], 8).shape == (1, 3, 8, 8)


def test_split_depends_on_texts_alone():
    prompts = [f"prompt {number}" for number in range(50)]
    parts = split(prompts, 8)
    assert len(parts.held_out) == 8 and not set(parts.held_out) & set(parts.train) and len(parts.train) == 42
    assert set(split(prompts[::-1], 8).held_out) == set(parts.held_out)
    assert len(split(prompts[:5], 16).held_out) == 2  # never more than half
    assert split(["one"], 16).train == split(["one"], 16).held_out == ["one"]
    assert len(split(prompts, 8, limit=10).train) == 10


def test_each_epoch_uses_every_prompt_once_in_another_order():
    first = [sample_prompt(0, 10, sample) for sample in range(10)]
    second = [sample_prompt(0, 10, sample) for sample in range(10, 20)]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_images_are_fitted_and_cropped(tmp_path):
    picture(tmp_path / "a.png", size=(40, 20), colour=(255, 0, 0))
    images = load_images([tmp_path / "a.png"], 16)
    assert images.shape == (1, 3, 16, 16)
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(PromptDataError, match="bad.png"):
        load_images([tmp_path / "bad.png"], 16)


def test_anchor_draws_are_a_function_of_the_sample_number():
    anchor = AnchorSet(["a", "b", "c"], lambda index: torch.full((4, 2, 2), float(index)), 1000)
    x0, captions, t, noise = anchor.draw([0, 1, 2, 7], 0, torch.device("cpu"))
    single = anchor.draw([7], 0, torch.device("cpu"))
    assert (
        torch.equal(x0[3], single[0][0])
        and captions[3] == single[1][0]
        and t[3] == single[2][0]
        and torch.equal(noise[3], single[3][0])
    )
    assert sorted(captions[:3]) == ["a", "b", "c"] and int(t.max()) < 1000
    assert [float(row.mean()) for row in x0[:3]] == [float("abc".index(caption)) for caption in captions[:3]]


def test_image_anchor_holds_some_out(tmp_path, models):
    from refl.backend import load_backend

    for number in range(20):
        picture(tmp_path / f"{number:02}.png", sidecar=f"picture {number}")
    backend = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    train, held_out = image_anchor(backend, str(tmp_path), 16, 16)
    assert (
        held_out.captions == ["picture 0", "picture 10"]
        and len(train) == 18
        and not set(train.captions) & set(held_out.captions)
    )
    assert train.latents(0).shape == (4, 8, 8)
    with pytest.raises(PromptDataError, match="no such folder"):
        image_anchor(backend, str(tmp_path / "x"), 16, 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptDataError, match="holds 0 images"):
        image_anchor(backend, str(tmp_path / "empty"), 16, 16)
