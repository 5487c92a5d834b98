"""Comparisons out of a library, and the plans for what it cannot tell."""

import json

import numpy as np
import pytest

from imagereward_core.errors import LibraryError
from imagereward_core.library import Made, Score, find, images
from imagereward_core.library.compare import as_dict, compare
from imagereward_core.library.plan import plan, write_plan
from imagereward_core.library.records import Seen


def put(library, made, score, pixels=None, scorer="IR"):
    """A picture without a file."""
    (count,) = library.query("SELECT COUNT(*) FROM images")[0]
    digest = count.to_bytes(16, "big") if pixels is None else pixels
    with library.transaction():
        number = images.put_picture(library, Seen(f"/{count}.png", digest, 512, 768, 1, 1), made, float(count))
        images.put_scores(library, number, [Score(scorer, score)])
    return number


def fill(library, levels, prompts=12, gap=1.0, seed=0, **fixed):
    """Pictures of every prompt with every level, the later the better by `gap`."""
    rng = np.random.default_rng(seed)
    for prompt in range(prompts):
        base = rng.normal()
        for index, level in enumerate(levels):
            made = Made(**{"prompt": f"a fox, scene {prompt}", "seed": prompt, "steps": 20, **fixed, **level})
            put(library, made, base + gap * index + 0.2 * rng.normal())


def named(*names):
    return [{"checkpoint": name, "checkpoint_hash": name[0] * 10} for name in names]


def test_checkpoints(library):
    fill(library, named("alpha", "beta", "gamma"))
    found = compare(library, "checkpoint")
    assert [found.labels[row.level] for row in found.board.effects] == [
        "gamma [gggggggggg]",
        "beta [bbbbbbbbbb]",
        "alpha [aaaaaaaaaa]",
    ]
    assert [row.effect for row in found.board.effects] == pytest.approx([1, 0, -1], abs=0.15)
    assert (found.images, found.prompts, found.scorer, found.source) == (36, 12, "IR", "from your history")
    assert all(pair.claimed for pair in found.board.pairs)
    (first, *_) = found.board.pairs
    size = f"{-first.difference:.2f}"
    expected = f"beta [bbbbbbbbbb] scores {size} higher than alpha [aaaaaaaaaa] (from your history)"
    assert found.sentence(first) == expected and 0.8 < float(size) < 1.2
    record = as_dict(found)
    assert [level["level"][:5] for level in record["levels"]] == ["gamma", "beta ", "alpha"]
    assert record["pairs"][0]["claimed"] is True and record["source"] == "from your history"
    json.dumps(record)


def test_a_renamed_checkpoint_is_the_same(library):
    fill(library, named("alpha", "beta"), prompts=6)
    fill(library, [{"checkpoint": "alpha2", "checkpoint_hash": "aaaaaaaaaa"}, *named("beta")], prompts=6, seed=1)
    found = compare(library, "checkpoint")
    assert sorted(found.labels) == ["alpha2 [aaaaaaaaaa]", "beta [bbbbbbbbbb]"] and found.images == 24


@pytest.mark.parametrize(
    ("factor", "levels", "labels"),
    [
        ("sampler", [{"sampler": "Euler a"}, {"sampler": "DPM++ 2M"}], ["Euler a", "DPM++ 2M"]),
        ("cfg", [{"cfg": 4.5}, {"cfg": 7.0}], ["4.5", "7"]),
        ("steps", [{"steps": 20}, {"steps": 30}], ["20", "30"]),
    ],
)
def test_other_settings(library, factor, levels, labels):
    fill(library, levels)
    found = compare(library, factor)
    assert [found.labels[row.level] for row in found.board.effects] == labels[::-1]


def test_loras_do_not_make_another_prompt(library):
    rng = np.random.default_rng(0)
    for prompt in range(10):
        for weight in (None, 0.5, 1.0):
            tag = "" if weight is None else f" <lora:fur:{weight}>"
            loras = () if weight is None else (("fur", weight),)
            made = Made(prompt=f"a (red:1.2) fox {prompt}{tag}", loras=loras)
            put(library, made, prompt + (weight or 0) + 0.1 * rng.normal())
    found = compare(library, "lora")
    assert [found.labels[row.level] for row in found.board.effects] == ["fur:1", "fur:0.5", "no LoRA"]
    assert found.prompts == 10


def test_copies_count_once(library):
    fill(library, named("alpha", "beta"), prompts=4)
    before = compare(library, "checkpoint")
    for number in (1, 2):
        picture = find.by_id(library, number)
        with library.transaction():
            seen = Seen(f"/copy{number}.png", picture.pixels, 1, 1, 1, 1)
            library.connection.execute("UPDATE images SET path = ? WHERE id = ?", (__file__ + str(number), number))
            library.connection.execute(
                "INSERT INTO images (path, pixels, width, height, bytes, mtime_ns, time, prompt_id, checkpoint_id)"
                " SELECT ?, pixels, 1, 1, 1, 1, 1, prompt_id, checkpoint_id FROM images WHERE id = ?",
                (seen.path, number),
            )
            (copy,) = library.connection.execute("SELECT MAX(id) FROM images").fetchone()
            images.put_scores(library, copy, [Score("IR", 99.0)])
    after = compare(library, "checkpoint")
    assert after.images == before.images == 8 and after.board == before.board


def test_a_question_narrows_it(library):
    fill(library, named("alpha", "beta"), sampler="Euler a")
    fill(library, named("alpha", "beta"), gap=-1.0, seed=1, sampler="DDIM")
    best = {}
    for sampler in ("Euler a", "DDIM"):
        found = compare(library, "checkpoint", where=find.where_of(library, f'sampler="{sampler}"'))
        best[sampler] = found.labels[found.board.effects[0].level][:4]
    assert best == {"Euler a": "beta", "DDIM": "alph"}


def test_nothing_can_be_said(library):
    fill(library, named("alpha", "beta"), prompts=2)
    found = compare(library, "checkpoint")
    assert found.board is None and as_dict(found)["levels"] == []


def test_cannot_tell_yet(library):
    fill(library, named("alpha", "beta"), prompts=5, gap=0.02)
    found = compare(library, "checkpoint")
    (pair,) = found.board.pairs
    assert found.sentence(pair).endswith(f"cannot tell yet: about {pair.more:,} more paired prompts") and pair.more > 5


def test_scorers_that_disagree(library):
    fill(library, named("alpha", "beta"))
    rng = np.random.default_rng(3)
    for picture in list(find.stream(library)):
        with library.transaction():
            worse = -1.0 if picture.made.checkpoint == "beta" else 0.0
            images.put_scores(library, picture.id, [Score("CLIP", worse + 0.1 * rng.normal())])
    found = compare(library, "checkpoint", "IR")
    (against,) = found.disagreements
    assert against.scorer == "CLIP" and against.claimed and against.difference == pytest.approx(1.0, abs=0.2)
    assert compare(library, "checkpoint", "IR", others=False).disagreements == ()


def test_no_scores_and_no_factor(library):
    with pytest.raises(LibraryError, match="has a score yet"):
        compare(library, "checkpoint")
    fill(library, named("alpha", "beta"), prompts=3)
    with pytest.raises(LibraryError, match="checkpoint, lora, sampler, cfg, steps, not 'moon'"):
        compare(library, "moon")
    with pytest.raises(LibraryError, match="no picture has a score of 'Moon'; there are IR"):
        compare(library, "checkpoint", "Moon")


def make(library, generation, score):
    """What a host makes of a line of a plan."""
    made = Made(
        prompt=generation["prompt"],
        negative=generation["negative_prompt"],
        seed=generation["seed"],
        sampler=generation["sampler"],
        steps=generation["steps"],
        cfg=generation["cfg_scale"],
        checkpoint=generation["checkpoint"],
        checkpoint_hash=generation["checkpoint_hash"],
    )
    return put(library, made, score)


def test_a_plan_asks_for_what_is_missing_and_only_that(library, tmp_path):
    fill(library, named("alpha", "beta", "gamma"), sampler="Euler a", cfg=7.0, negative="blurry")
    first = plan(library, "checkpoint", ["alpha", "gamma [gggggggggg]"], prompts=8)
    write_plan(first, tmp_path / "plan.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == list(first.missing) and len(lines) == 16 and first.made == 0 and first.prompts == 8
    by_seed = {}
    for line in lines:
        by_seed.setdefault((line["prompt"], line["seed"]), []).append((line["checkpoint"], line["checkpoint_hash"]))
    assert len(by_seed) == 8
    assert all(made == [("alpha", "a" * 10), ("gamma", "g" * 10)] for made in by_seed.values())
    common = {key: lines[0][key] for key in ("negative_prompt", "steps", "sampler", "cfg_scale", "width", "height")}
    assert common == {
        "negative_prompt": "blurry",
        "steps": 20,
        "sampler": "Euler a",
        "cfg_scale": 7.0,
        "width": 512,
        "height": 768,
    }
    for line in lines[:5]:
        make(library, line, 0.0)
    second = plan(library, "checkpoint", ["alpha", "gamma"], prompts=8)
    assert second.made == 5 and list(second.missing) == lines[5:]


def test_only_planned_pairs_that_are_complete_count(library):
    fill(library, named("alpha", "beta"), gap=3.0)
    asked = plan(library, "checkpoint", ["alpha", "beta"], prompts=6)
    assert compare(library, "checkpoint", planned=True).images == 0
    rng = np.random.default_rng(4)
    for line in asked.missing[:-1]:  # the last pair stays half made
        make(library, line, (0.5 if line["checkpoint"] == "beta" else 0.0) + 0.05 * rng.normal())
    found = compare(library, "checkpoint", planned=True)
    assert (found.images, found.prompts, found.source) == (10, 5, "planned pairs")
    (pair,) = found.board.pairs
    assert found.sentence(pair).startswith("beta [bbbbbbbbbb] scores 0.5") and "history" not in found.sentence(pair)


def test_a_plan_knows_nothing_of_scores(library):
    fill(library, named("alpha", "beta"))
    first = plan(library, "checkpoint", ["alpha", "beta"], prompts=4)
    with library.transaction() as connection:
        connection.execute("UPDATE scores SET value = -value * 100")
    assert plan(library, "checkpoint", ["alpha", "beta"], prompts=4).missing == first.missing


def test_a_plan_of_loras_puts_the_tags(library):
    for prompt in range(5):
        for weight in (0.5, 1.0):
            tag = f"<lora:fur:{weight}>"
            put(library, Made(prompt=f"fox {prompt}, {tag}", loras=(("fur", weight),)), float(prompt))
    asked = plan(library, "lora", ["fur:0.5", "fur:1"], prompts=1)
    prompts = [line["prompt"] for line in asked.missing]
    assert prompts[0].endswith(" <lora:fur:0.5>") and prompts[1].endswith(" <lora:fur:1>")
    assert all(prompt.count("<lora") == 1 for prompt in prompts)


def test_plans_that_cannot_be(library):
    fill(library, named("alpha", "beta"), prompts=3)
    with pytest.raises(LibraryError, match="'moon' is no level; there are alpha"):
        plan(library, "checkpoint", ["alpha", "moon"])
    with pytest.raises(LibraryError, match="two different levels"):
        plan(library, "checkpoint", ["alpha", "alpha"])
    with pytest.raises(LibraryError, match="two different levels"):
        plan(library, "steps")


def test_a_plan_is_as_large_as_the_difference_needs(library):
    fill(library, named("alpha", "beta"), prompts=150, gap=0.05)
    fill(library, [{"sampler": "a"}, {"sampler": "b"}], prompts=150, gap=3.0, seed=5)
    assert plan(library, "sampler").prompts == 20
    assert plan(library, "checkpoint").prompts > 100
