"""What is remembered of a picture, and that it is known again wherever it goes."""

import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from imagereward_core.errors import LibraryError
from imagereward_core.library import Features, Made, Record, Score, find, images, marks, open_library, remember_now
from imagereward_core.library.describe import described, loras_of
from imagereward_core.library.pixels import look, pixel_digest
from imagereward_core.library.records import Seen
from imagereward_core.library.scan import add_files, prune
from imagereward_core.metadata import write_score
from imagereward_core.metadata.infotext import StoredScore
from imagereward_core.prompts import plain_prompt

from .conftest import infotext, picture

TEXT = infotext("a (red:1.2) fox, <lora:fur:0.8>, <lyco:ink>", seed=2**64 - 1, score=0.5812, Version="v1.10.1")


def test_all_that_a_file_says(library, tmp_path):
    path = picture(tmp_path / "a.png", 1, TEXT)
    result = add_files(library, [path])
    assert (result.read, result.known, result.failed) == (1, 0, 0)
    (found,) = find.newest(library)
    assert found.path == str(path) and (found.width, found.height) == (32, 24) and not found.missing
    assert found.made == Made(
        prompt="a (red:1.2) fox, <lora:fur:0.8>, <lyco:ink>",
        negative="blurry",
        seed=2**64 - 1,
        sampler="Euler a",
        steps=20,
        cfg=7.0,
        checkpoint="jugg",
        checkpoint_hash="abcdef1234",
        loras=(("fur", 0.8), ("ink", 1.0)),
        program="v1.10.1",
    )
    assert found.scores == {"ImageReward-v1.0": 0.5812}
    assert found.time == pytest.approx(path.stat().st_mtime)


def test_loras():
    assert loras_of("<lora:a:0.5> <lora:b> <lora:c:x> <hypernet:d:1> <lora:a:0.7> <lora:e:1:0.5> <lora:f:te=1>") == (
        ("a", 0.7),
        ("b", 1.0),
        ("c", None),
        ("e", 1.0),
        ("f", 1.0),
    )


def test_a_prompt_beside_the_picture_and_a_damaged_text(tmp_path):
    path = picture(tmp_path / "a.png", 1)
    (tmp_path / "a.txt").write_text("a bird", encoding="utf-8")
    assert described(path) == (Made(prompt="a bird"), ())
    broken = tmp_path / "b.png"
    broken.write_bytes(path.read_bytes()[:60])
    assert described(broken) == (Made(), ())


def test_the_digest_is_of_what_is_seen(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    solid = image.copy()
    solid.putalpha(255)
    glass = image.copy()
    glass.putalpha(100)
    turned = Image.fromarray(pixels.reshape(7, 5, 3))
    digests = [pixel_digest(shown) for shown in (image, solid, glass, turned)]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    assert look(tmp_path / "a.png").pixels == look(tmp_path / "b.bmp").pixels == digests[0]


def only(library):
    (found,) = list(find.stream(library))
    return found


def test_a_moved_file_is_found_again(library, tmp_path):
    path = picture(tmp_path / "a.png", 1, TEXT)
    add_files(library, [path])
    number = only(library).id
    marks.set_stars(library, number, 5)
    (tmp_path / "sorted").mkdir()
    moved = shutil.move(path, tmp_path / "sorted" / "best.png")
    assert find.by_path(library, moved).id == number
    add_files(library, [tmp_path / "sorted"])
    assert (only(library).id, only(library).path, only(library).stars) == (number, str(moved), 5)


def test_a_copy_is_another_picture(library, tmp_path):
    path = picture(tmp_path / "a.png", 1, TEXT)
    shutil.copy(path, tmp_path / "b.png")
    add_files(library, [tmp_path])
    assert sorted(found.path for found in find.newest(library)) == [str(path), str(tmp_path / "b.png")]


def test_rewritten_metadata_is_the_same_picture(library, tmp_path):
    path = picture(tmp_path / "a.png", 1, TEXT)
    add_files(library, [path])
    number = only(library).id
    write_score(path, StoredScore(1.25, "ImageReward-v1.0", plain_prompt(only(library).made.prompt)))
    os.utime(path, (1, 1))
    assert add_files(library, [path]).read == 1
    assert only(library).id == number and only(library).scores == {"ImageReward-v1.0": 1.25}


def test_other_pixels_are_another_picture(library, tmp_path):
    path = picture(tmp_path / "a.png", 1, TEXT)
    add_files(library, [path])
    old = only(library)
    marks.set_mark(library, old.id, "keep")
    picture(path, 2, infotext("a dog"))
    os.utime(path, (1, 1))
    add_files(library, [path])
    (new,) = find.newest(library)
    assert new.id != old.id and new.made.prompt == "a dog" and not new.scores and new.mark is None
    was = find.by_id(library, old.id)
    assert was.missing and was.mark == "keep" and was.scores == {"ImageReward-v1.0": 0.5812}
    picture(tmp_path / "back.png", 1, TEXT)
    add_files(library, [tmp_path / "back.png"])
    assert find.by_id(library, old.id).path == str(tmp_path / "back.png")


def test_going_on_where_it_was(library, tmp_path):
    for number in range(7):
        picture(tmp_path / f"{number}.png", number, TEXT)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    failed = []

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_files(library, [tmp_path], progress=stop)
    before = len(find.newest(library))
    assert before == 3
    result = add_files(library, [tmp_path], failed=lambda path, reason: failed.append((path.name, reason)))
    assert (result.read, result.known, result.failed) == (4, 3, 1)
    assert failed[0][0] == "bad.png" and "not an image" in failed[0][1]
    assert add_files(library, [tmp_path]).known == 7


def test_a_score_finds_its_scorer(library, tmp_path):
    path = picture(tmp_path / "a.png", 1, TEXT)
    add_files(library, [path])
    remember_now(library, Record(path, scores=(Score("ImageReward-v1.0", 0.7, "AA11"),)))
    remember_now(library, Record(path, scores=(Score("ImageReward-v1.0", 0.9, "bb22"),)))
    names = [(name, digest, used) for _, name, digest, used in find.scorers(library)]
    assert names == [("ImageReward-v1.0", "aa11", 1), ("ImageReward-v1.0", "bb22", 1)]
    number, _ = find.scorer_named(library, "imagereward")
    assert find.top(library, number)[0].scores["ImageReward-v1.0"] == 0.9
    older = find.scorer_ids(library, "ImageReward-v1.0")[-1]
    assert find.top(library, older)[0].scores["ImageReward-v1.0"] == 0.7


def test_a_score_for_another_prompt_is_kept_apart(library, tmp_path):
    path = picture(tmp_path / "a.png", 1, infotext("a (red:1.2) fox"))
    remember_now(
        library, Record(path, scores=(Score("IR", 0.5, prompt="a dog"), Score("CLIP", 0.3, prompt="a red fox")))
    )
    assert only(library).scores == {"CLIP": 0.3}
    assert library.query("SELECT prompt, value FROM scores ORDER BY value") == [("", 0.3), ("a dog", 0.5)]


def test_a_picture_without_prompt_takes_the_one_it_was_scored_against(library, tmp_path):
    path = picture(tmp_path / "a.png", 1)
    remember_now(library, Record(path, scores=(Score("IR", 0.5, prompt="a dog"),)))
    assert only(library).made.prompt == "a dog" and only(library).scores == {"IR": 0.5}


def test_features_are_kept_as_fp16(library, tmp_path):
    path = picture(tmp_path / "a.png", 1)
    values = np.linspace(-2, 2, 12).reshape(3, 4)
    number = remember_now(library, Record(path, features=(Features("IR", {"image": values}, "aa"),)))
    ((name, shape, data),) = library.query("SELECT name, shape, data FROM features WHERE image_id = ?", (number,))
    assert name == "image" and shape == "[3, 4]"
    assert np.array_equal(np.frombuffer(data, "<f2").reshape(3, 4), values.astype(np.float16))
    too_large = Features("IR", {"image": np.array([1e6])})
    with pytest.raises(LibraryError, match="fp16 does not hold"), library.transaction():
        images.put_features(library, number, [too_large])
    assert remember_now(library, Record(path, (Score("IR", 0.5),), (too_large,))) == number  # the score is kept
    assert only(library).scores == {"IR": 0.5} and library.query("SELECT COUNT(*) FROM features") == [(1,)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers(library, tmp_path, value):
    with pytest.raises(LibraryError, match="finite"):
        remember_now(library, Record(picture(tmp_path / "a.png", 1), (Score("IR", value),)))


def test_the_head_of_the_same_prompts_stays_with_them(library):
    def put(path, prompt):
        return images.put_picture(library, Seen(path, path.encode().ljust(16), 1, 1, 1, 1), Made(prompt=prompt))

    with library.transaction():
        first, second, other = put("/1", "a fox"), put("/2", "a (fox:1.2)"), put("/3", "a dog")
        images.remove_pictures(library, [first, other])
        third = put("/4", "a fox <lora:x:1>")
    rows = library.query("SELECT i.id, p.same FROM images i JOIN prompts p ON p.id = i.prompt_id ORDER BY i.id")
    assert [number for number, _ in rows] == [second, third] and len({same for _, same in rows}) == 1
    assert library.query("SELECT text FROM prompts WHERE text = 'a dog'") == []


def test_nothing_is_kept_of_a_record_that_fails(library, tmp_path):
    path = picture(tmp_path / "a.png", 1)
    with pytest.raises(LibraryError):
        remember_now(library, Record(path, (Score("IR", 1.0), Score("CLIP", float("nan")))))
    assert list(find.stream(library)) == [] and find.scorers(library) == []


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_seeds_of_any_size(seed):
    assert images.seed_from_row(images.seed_to_row(seed)) == seed
    assert -(2**63) <= images.seed_to_row(seed) < 2**63


def test_texts_that_are_no_text(library):
    made = Made(prompt="half \ud800 and \0", sampler="\udfff", loras=(("\ud800", 1.0),), seed=10**30, steps=10**30)
    with library.transaction():
        images.put_picture(library, Seen("/a.png", b"a" * 16, 1, 1, 1, 1), made)
    found = only(library).made
    assert found.prompt == "half ? and \ufffd" and found.seed is None and found.steps is None


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text are Linux's")
def test_names_that_are_no_text(library, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    shutil.copy(picture(tmp_path / "in" / "a.png", 1, TEXT), path)
    add_files(library, [path])
    assert only(library).path == path and add_files(library, [path]).known == 1
    assert find.by_path(library, path).id == only(library).id


def test_marks_stars_and_duels(library, tmp_path):
    numbers = [remember_now(library, Record(picture(tmp_path / f"{seed}.png", seed, TEXT))) for seed in range(2)]
    marks.set_mark(library, numbers[0], "keep")
    marks.set_stars(library, numbers[1], 3)
    assert [(found.mark, found.stars) for found in map(find.by_id, [library] * 2, numbers)] == [
        ("keep", None),
        (None, 3),
    ]
    marks.set_mark(library, numbers[0], None)
    assert find.by_id(library, numbers[0]).mark is None
    first = marks.add_duel(library, *numbers, when=1.0)
    second = marks.add_duel(library, *numbers, "both", prompt="another", when=2.0)
    told = [(duel.winner, duel.loser, duel.verdict, duel.prompt) for duel in marks.duels(library)]
    assert told == [
        (numbers[0], numbers[1], "win", find.by_id(library, numbers[0]).made.prompt),
        (numbers[0], numbers[1], "both", "another"),
    ]
    assert marks.remove_duel(library, second) and not marks.remove_duel(library, second)
    assert [duel.id for duel in marks.duels(library)] == [first]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda library: marks.set_mark(library, 1, "love"),
        lambda library: marks.set_stars(library, 1, 6),
        lambda library: marks.set_stars(library, 1, 0),
        lambda library: marks.set_stars(library, 99, 3),
        lambda library: marks.add_duel(library, 1, 1),
        lambda library: marks.add_duel(library, 1, 99),
        lambda library: marks.add_duel(library, 1, 2, "draw"),
    ],
)
def test_marks_that_are_none(library, wrong):
    with pytest.raises(LibraryError):
        wrong(library)
    assert marks.duels(library) == []


def test_pruning_keeps_what_was_judged(library, tmp_path):
    gone, starred, there, away = (
        remember_now(library, Record(picture(tmp_path / folder / f"{seed}.png", seed, TEXT)))
        for seed, folder in enumerate(("here", "here", "here", "drive"))
    )
    marks.set_stars(library, starred, 2)
    for seed in (0, 1):
        (tmp_path / "here" / f"{seed}.png").unlink()
    shutil.rmtree(tmp_path / "drive")
    tried = prune(library, dry_run=True)
    assert (tried.removed, tried.kept, tried.folder_gone) == (1, 1, 1) and len(list(find.stream(library))) == 4
    assert prune(library) == tried
    assert {found.id: found.missing for found in find.stream(library)} == {starred: True, there: False, away: False}
    assert find.by_id(library, gone) is None
    texts = "SELECT COUNT(*) FROM prompts"
    assert library.query(texts) == [(2,)]  # the prompt and the negative prompt of all
    with library.transaction():
        images.put_made(library, away, Made(prompt="only of this one, with (weights:1.2)"))
    assert len(find.newest(library, find.where_of(library, 'prompt~"only of this"'))) == 1
    assert prune(library, folders_too=True).removed == 1
    assert library.query(texts) == [(2,)]
    assert library.query("SELECT rowid FROM prompts_search WHERE prompts_search MATCH 'only'") == []
    library.query("INSERT INTO prompts_search (prompts_search) VALUES ('integrity-check')")
    assert [found.id for found in find.newest(library)] == [there]


def test_a_library_without_the_text_index_gets_it_later(place, tmp_path, monkeypatch):
    from imagereward_core.library import schema

    monkeypatch.setattr(schema, "has_search", lambda connection: False)
    with open_library(place) as library:
        assert not library.search
        remember_now(library, Record(picture(tmp_path / "a.png", 1, infotext("a fox"))))
        assert len(find.newest(library, find.where_of(library, "prompt~fox"))) == 1
    monkeypatch.undo()
    with open_library(place) as library:
        assert library.search and len(find.newest(library, find.where_of(library, "prompt~fox"))) == 1
