"""From duels in a library to a scorer that loads, scores and has gradients."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import imagereward_core as RM
from imagereward_core import registry
from imagereward_core.errors import ConfigError, DataError, ModelNotFoundError, WeightsError
from imagereward_core.library import Record, delete_library, marks, open_library, remember_now
from imagereward_core.library.records import Made
from imagereward_core.taste import files, learning, verdict
from imagereward_core.taste import place as tastes
from imagereward_core.taste.duels import add_file, weak_duels

from .conftest import WEIGHTS


def learn(library, base, small, name="my-taste", **options):
    return learning.learn(library, base, lambda: small, name, **options)


def test_a_taste_for_red_is_learnt_and_scores(library, base, small, duels, pictures):
    add_file(library, duels)
    learnt = learn(library, base, small)
    about = learnt.about
    assert about.duels == 120 and about.state == verdict.READY and about.more == 0 and not learnt.left_out
    assert about.accuracy > 0.9 > about.scorer_accuracy and about.interval[0] > about.scorer_accuracy
    assert learnt.measured.p == about.p < 0.01
    scorer = RM.load_score("my-taste", device="cpu")
    assert scorer.info.key == "Taste" and scorer.info.uses_prompt and scorer.base.name == small.name
    right = 0
    for prompt, made in list(pictures.items())[:10]:
        scores = scorer.score(prompt, [path for path, _ in made])
        right += scores == sorted(scores)
    assert right >= 9


def test_without_duels_it_is_the_scorer_to_the_last_bit(library, base, small, pictures):
    learn(library, base, small)
    scorer = RM.load_score("my-taste", device="cpu")
    prompt, made = next(iter(pictures.items()))
    paths = [path for path, _ in made]
    assert scorer.score(prompt, paths) == small.score(prompt, paths)
    assert scorer.score(prompt, paths[0]) == pytest.approx(small.score(prompt, paths[0]), abs=1e-6)


def test_scores_keep_the_scorers_mean_and_spread(library, base, small, duels):
    add_file(library, duels)
    learnt = learn(library, base, small)
    _, material = learning.material_of(library, base, [number for (number,) in library.query("SELECT id FROM images")])
    score, embedding, looks = learnt.taste.basis.linear(learnt.taste.head.mean)
    raw = material.scores * score + material.embeddings @ embedding + material.appearance @ looks
    found = learnt.taste.factor * raw + learnt.taste.constant
    assert (found.mean(), found.std()) == pytest.approx((material.scores.mean(), material.scores.std()))


def test_a_picture_is_looked_at_once(library, base, small, duels):
    add_file(library, duels)
    learn(library, base, small)

    def never():
        raise AssertionError("features that are there were computed again")

    again = learning.learn(library, base, never)
    assert again.about.accuracy > 0.9
    assert library.query("SELECT COUNT(*) FROM looks") == [(1,)]  # nothing new: no second look


def test_what_was_remembered_as_it_was_scored_needs_no_scorer(library, base, small, duels):
    """Of such pictures the looks alone are lacking; one whose embedding is not there either is scored."""
    from imagereward_core.library.records import LOOKS

    add_file(library, duels)
    first = learn(library, base, small).about
    with library.transaction() as connection:
        connection.execute("DELETE FROM features WHERE name = ?", (LOOKS,))

    def never():
        raise AssertionError("the scorer was loaded")

    again = learning.learn(library, base, never).about
    assert (again.accuracy, again.scorer_accuracy) == (first.accuracy, first.scorer_accuracy)
    with library.transaction() as connection:
        connection.execute("DELETE FROM features WHERE image_id = (SELECT MIN(image_id) FROM features)")
    with pytest.raises(AssertionError, match="the scorer was loaded"):
        learning.learn(library, base, never)
    assert learn(library, base, small).about.accuracy == first.accuracy


def test_the_gradient_is_that_of_the_score(library, base, small, duels, pictures):
    add_file(library, duels)
    learn(library, base, small)
    scorer = RM.load_score("my-taste", device="cpu")
    prompt, made = next(iter(pictures.items()))
    pixels = torch.from_numpy(np.array(Image.open(made[1][0]))).permute(2, 0, 1)[None].float() / 255
    images = pixels.clone().requires_grad_()
    score = scorer.differentiable([prompt], images)
    assert score.item() == pytest.approx(scorer.score(prompt, made[1][0]), abs=0.05)
    score.sum().backward()
    red = torch.zeros_like(images)
    red[:, 0], red[:, 2] = 0.01, -0.01
    assert (images.grad * red).sum() > 0
    warmer = scorer.differentiable([prompt], (pixels + red).clamp(0, 1))
    assert warmer.item() > score.item()


def test_several_tastes_are_kept_apart(library, base, small, duels, tmp_path):
    add_file(library, duels)
    turned = [
        {**line, "winner": line["loser"], "loser": line["winner"]}
        for line in map(json.loads, duels.read_text().splitlines())
    ]
    (tmp_path / "blue.jsonl").write_text("\n".join(map(json.dumps, turned)))
    add_file(library, tmp_path / "blue.jsonl", "likes blue")
    learn(library, base, small)
    learn(library, base, small, "likes blue")
    assert RM.available_scores()[-2:] == ["likes blue", "my-taste"]
    image = Image.new("RGB", (40, 40), (200, 30, 30)), Image.new("RGB", (40, 40), (30, 30, 200))
    red, blue = (RM.load_score(name, device="cpu").score("a disc", list(image)) for name in ("my-taste", "likes blue"))
    assert red[0] > red[1] and blue[0] < blue[1]
    assert learning.forget(library, "likes blue") == (120, True)
    assert RM.available_scores()[-1] == "my-taste" and "likes blue" not in marks.duels_by_taste(library)
    with pytest.raises(ModelNotFoundError):
        RM.load_score("likes blue")


def test_what_nobody_won_counts_for_both_sides(library, base, small, pictures):
    numbers = [
        [remember_now(library, Record(path, made=Made(prompt=prompt))) for path, _ in made]
        for prompt, made in pictures.items()
    ]
    for blue, _, red in numbers:
        marks.add_duel(library, red, blue, "neither")
        marks.add_duel(library, red, blue, "both")
    learnt = learn(library, base, small)
    assert learnt.about.duels == 80 and learnt.measured is None and learnt.about.state == verdict.NOT_YET
    weights = learnt.taste.head.mean
    assert 0 < weights[0] < 1 and np.abs(weights[1:]).max() < 0.3


def test_marks_and_stars_are_weak_duels(library, base, small, pictures):
    for prompt, made in list(pictures.items())[:20]:
        blue, middle, red = [remember_now(library, Record(path, made=Made(prompt=prompt))) for path, _ in made]
        marks.set_mark(library, red, "keep")
        marks.set_mark(library, blue, "reject")
        marks.set_stars(library, middle, 3)
    pairs = weak_duels(library)
    assert len(pairs) == 20 and {pair.weight for pair in pairs} == {0.5}
    learnt = learn(library, base, small)
    assert learnt.weak == 20 and learnt.about.duels == 0
    marks.set_stars(library, red, 5)
    marks.set_stars(library, blue, 1)
    pairs = weak_duels(library)
    assert {(pair.winner, pair.loser) for pair in pairs[-3:]} == {(red, middle), (middle, blue), (red, blue)}
    assert [pair.weight for pair in pairs[-3:]] == [0.25] * 3


def test_a_picture_that_is_gone_leaves_its_duels_out(library, base, small, duels, pictures, tmp_path):
    path = tmp_path / "gone.png"
    prompt, made = next(iter(pictures.items()))
    Image.new("RGB", (30, 30), "green").save(path)
    gone = remember_now(library, Record(path, made=Made(prompt=prompt)))
    nameless = tmp_path / "no prompt.png"
    Image.new("RGB", (31, 30), "green").save(nameless)
    other = remember_now(library, Record(made[0][0], made=Made(prompt=prompt)))
    first = marks.add_duel(library, gone, other)
    second = marks.add_duel(library, remember_now(library, Record(nameless)), other)
    path.unlink()
    add_file(library, duels)
    learnt = learn(library, base, small)
    assert set(learnt.left_out) == {first, second} and learnt.about.state == verdict.READY
    assert "gone.png" in learnt.left_out[first] and "no prompt is known" in learnt.left_out[second]


def test_a_file_that_is_added_again_adds_what_is_new(library, duels, tmp_path, pictures):
    found = add_file(library, duels)
    assert (found.added, found.known, found.failed) == (120, 0, 0)
    assert add_file(library, duels).known == 120
    lines = duels.read_text().splitlines()
    more = {**json.loads(lines[0]), "verdict": "both"}
    (tmp_path / "more.jsonl").write_text("\n".join([lines[0], lines[0], json.dumps(more), ""]))
    found = add_file(library, tmp_path / "more.jsonl")
    often = lines.count(lines[0])
    assert found.added == 1 + max(0, 2 - often) and marks.duels(library)[-1].verdict == "both"


def test_lines_that_cannot_be_used_are_named_and_the_others_kept(library, duels, tmp_path, pictures):
    (first, made), (second, others) = list(pictures.items())[:2]
    good = json.loads(duels.read_text().splitlines()[0])
    remember_now(library, Record(made[0][0], made=Made(prompt=first)))
    remember_now(library, Record(others[0][0], made=Made(prompt=second)))
    lines = [
        json.dumps(good),
        "{",
        "[1, 2]",
        json.dumps({"winner": "x.png"}),
        json.dumps({**good, "verdict": "draw"}),
        json.dumps({**good, "prompt": 3}),
        json.dumps({**good, "winner": str(tmp_path / "none.png")}),
        json.dumps({**good, "loser": good["winner"]}),
        json.dumps({"winner": str(made[0][0]), "loser": str(others[0][0])}),
    ]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    reasons = []
    found = add_file(library, tmp_path / "bad.jsonl", failed=reasons.append)
    assert (found.added, found.failed) == (1, 8) and len(marks.duels(library)) == 1
    for number, words in enumerate(
        (
            "no JSON",
            "a line is",
            "winner and loser",
            "win, neither, both",
            "must be a text",
            "none.png",
            "needs two pictures",
            "two pictures of one prompt",
        ),
        start=2,
    ):
        assert f"line {number}: " in reasons[number - 2] and words in reasons[number - 2]
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="holds no duels"):
        add_file(library, tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        add_file(library, tmp_path / "none.jsonl")


def test_paths_start_at_the_files_folder(library, pictures, tmp_path):
    prompt, made = next(iter(pictures.items()))
    for path, _ in made[:2]:
        shutil.copy(path, tmp_path / path.name)
    line = {"winner": made[1][0].name, "loser": made[0][0].name, "prompt": prompt}
    (tmp_path / "duels.jsonl").write_text("\ufeff" + json.dumps(line), encoding="utf-8")
    assert add_file(library, tmp_path / "duels.jsonl").added == 1
    assert library.query("SELECT COUNT(*) FROM images WHERE prompt_id IS NOT NULL") == [(2,)]


def test_an_exported_taste_holds_numbers_and_no_path(library, base, small, duels, tmp_path, pictures):
    add_file(library, duels)
    learn(library, base, small)
    target = files.export("my-taste", tmp_path, library.place)
    with safe_open(str(target), framework="np") as file:
        text = json.dumps(file.metadata()) + str(list(file.keys()))
    assert target.name == "my-taste.safetensors" and str(WEIGHTS.parent) not in text and "disc" not in text
    with pytest.raises(ConfigError, match="already"):
        files.take_in(target, None, library.place)
    with pytest.raises(ConfigError, match="scorer's name"):
        files.take_in(target, "pick score", library.place)
    other = tmp_path / "other" / "library.sqlite"
    files.take_in(target, "a friends", other, base=str(WEIGHTS))
    prompt, made = next(iter(pictures.items()))
    paths = [path for path, _ in made]
    mine, theirs = (
        RM.load_score(str(path), device="cpu").score(prompt, paths)
        for path in (tastes.existing("my-taste", library.place), tastes.existing("a friends", other))
    )
    assert mine == theirs
    files.take_in(target, "no base", other)
    with pytest.raises(ModelNotFoundError, match="whose weights are not at tiny-imagereward.safetensors"):
        RM.load_score(str(tastes.existing("no base", other)))
    found = RM.load_score(str(tastes.existing("no base", other)), device="cpu", models_dir=WEIGHTS.parent)
    assert found.score(prompt, paths) == mine


def test_a_taste_is_not_put_onto_other_weights(library, base, small, duels, tmp_path):
    own = tmp_path / "own.safetensors"
    shutil.copy(WEIGHTS, own)
    add_file(library, duels)
    learn(library, dataclasses.replace(base, name="own [0123456789]", source=str(own)), small)
    with pytest.raises(WeightsError, match=r"learnt on own \[0123456789\], but .*own.safetensors is now own \["):
        RM.load_score("my-taste")
    with pytest.raises(ConfigError, match="whose features differ"):
        files.take_in(tastes.existing("my-taste"), "another", library.place, base=str(own))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("directions"), "directions is missing"),
        (lambda arrays: arrays["mean"].fill(np.nan), "no numbers"),
        (lambda arrays: arrays.update(mean=np.zeros(3)), "the shape"),
    ],
)
def test_a_damaged_taste_is_said(library, base, small, tmp_path, change, words):
    from safetensors.numpy import save_file

    learn(library, base, small)
    path = tastes.existing("my-taste", library.place)
    with safe_open(str(path), framework="np") as file:
        metadata, arrays = file.metadata(), {key: file.get_tensor(key).copy() for key in file.keys()}  # noqa: SIM118
    change(arrays)
    save_file(arrays, path, metadata)
    with pytest.raises(WeightsError, match=words):
        files.read(path)
    path.write_bytes(b"no safetensors")
    assert tastes.about(path) is None
    with pytest.raises(WeightsError):
        RM.load_score("my-taste")


def test_names(library, base, small):
    for name in ("../x", "a/b", "x", "", "nul", "a.b", "CLIP", "image reward v1.0".replace(" ", "-"), " a", "a" * 61):
        with pytest.raises(ConfigError):
            learn(library, base, small, name)
    learn(library, base, small, "Ölbilder - 2")
    assert tastes.names() == ["Ölbilder - 2"]
    assert registry.describe("Ölbilder - 2").key == "Taste" and registry.describe("Ölbilder - 2").kind == "taste"
    assert registry.describe("other.pt").key == "ImageReward" and "Taste" in registry.keys()
    with pytest.raises(ConfigError, match="tastes"):
        registry.check_own_key("taste")


def test_a_taste_is_no_scorer_to_learn_on(library, base, small):
    learn(library, base, small)
    scorer = RM.load_score("my-taste", device="cpu")
    with pytest.raises(ConfigError, match="is a taste"):
        scorer.with_embeddings(["x"], scorer.encode_images(torch.zeros(1, 3 * scorer.size**2 + 16)))


def test_deleting_the_library_deletes_its_tastes(place, base, small):
    with open_library(place) as library:
        learn(library, base, small)
    assert tastes.names() == ["my-taste"]
    delete_library(place)
    assert tastes.names() == [] and not place.parent.joinpath("imagereward-tastes").exists()
