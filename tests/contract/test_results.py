"""Images, infotexts, prompts, seeds and subseeds are cut and permuted together."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st


def made(host, count, masks=0, tail=0, grid=False):
    """(processed, entries) of a job with `count` images, `masks` after each, `tail` control maps and maybe a grid."""
    entry = host.part("results").Entry
    entries = [
        entry(k // 2, k % 2, f"prompt {k}", f"negative {k}", k, 100 + k, object(), float(k)) for k in range(count)
    ]
    images = [image for e in entries for image in [e.image, *(("mask", e.seed) for _ in range(masks))]]
    images += [("map", i) for i in range(tail)]
    processed = SimpleNamespace(
        images=["grid"] * grid + images,
        infotexts=["grid text"] * grid + [f"text {k}" for k in range(count)],
        index_of_first_image=int(grid),
        all_prompts=[e.prompt for e in entries],
        all_negative_prompts=[e.negative_prompt for e in entries],
        all_seeds=[e.seed for e in entries],
        all_subseeds=[e.subseed for e in entries],
        prompt="",
        negative_prompt="",
        seed=-1,
        subseed=-1,
        info="",
    )
    return processed, entries


def test_any_selection_stays_aligned(host):
    rearrange = host.part("results").rearrange

    @given(st.integers(1, 6), st.integers(0, 2), st.integers(0, 2), st.booleans(), st.data())
    def check(count, masks, tail, grid, data):
        if count == 1:
            tail = 0 if masks == 0 else tail
        order = data.draw(st.permutations(range(count))).copy()[: data.draw(st.integers(1, count))]
        processed, entries = made(host, count, masks, tail, grid)
        rearrange(processed, entries, order, masks)
        expected = ["grid"] * grid
        for k in order:
            expected += [entries[k].image] + [("mask", k)] * masks
        assert processed.images == expected + [("map", i) for i in range(tail)]
        assert processed.infotexts == ["grid text"] * grid + [f"text {k}" for k in order]
        assert processed.all_seeds == list(order) and processed.all_subseeds == [100 + k for k in order]
        assert processed.all_prompts == [f"prompt {k}" for k in order]
        assert processed.all_negative_prompts == [f"negative {k}" for k in order]
        assert (processed.seed, processed.prompt) == (order[0], f"prompt {order[0]}")

    check()


def test_nothing_left(host):
    processed, entries = made(host, 3, masks=1, tail=1)
    host.part("results").rearrange(processed, entries, [], 1)
    assert (processed.images, processed.infotexts, processed.info) == ([], [], "")
    assert processed.all_prompts == ["prompt 0"] and processed.all_seeds == [0]


def test_the_jobs_own_lists_are_not_touched(host):
    processed, entries = made(host, 3)
    before = processed.all_seeds
    host.part("results").rearrange(processed, entries, [2])
    assert before == [0, 1, 2]


def test_replaced_images_by_position(host):
    processed, entries = made(host, 3)
    processed.images = ["new 0", "new 1", "new 2"]
    host.part("results").rearrange(processed, entries, [2, 0])
    assert processed.images == ["new 2", "new 0"]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda processed: processed.images.__setitem__(2, "replaced"),  # and there are masks: position can't tell
        lambda processed: processed.images.reverse(),
        lambda processed: processed.infotexts.pop(),
    ],
)
def test_what_can_not_be_mapped_is_left_alone(host, break_it):
    processed, entries = made(host, 3, masks=1)
    break_it(processed)
    before = (list(processed.images), list(processed.infotexts), processed.all_seeds)
    with pytest.raises(host.part("results").Misaligned):
        host.part("results").rearrange(processed, entries, [0], 1)
    assert (processed.images, processed.infotexts, processed.all_seeds) == before


def test_summary_and_yield(host):
    results = host.part("results")
    _, entries = made(host, 4)
    entries[1].score = None
    assert (
        results.summary(entries, 2, True)
        == "scored 3 · not scored 1 · kept 2 · hidden 2 · mean 1.67 · best 3.00 (seed 3)"
    )
    assert results.summary(entries[:1], 1, False) == "scored 1 · mean 0.00 · best 0.00 (seed 0)"
    assert results.yield_summary(entries, [3]) == "1 of 4 generated, +0.87 σ over the mean"
    assert results.yield_summary(entries, []) == "0 of 4 generated"
