"""The words a reward model reads from a web UI prompt."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagereward_core.errors import PromptError
from imagereward_core.prompts import plain_prompt


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a cat on a mat", "a cat on a mat"),
        ("", ""),
        ("  a  cat\n\n on a\tmat ", "a cat on a mat"),
        # extra networks
        ("a cat <lora:fluffy:0.8>", "a cat"),
        ("<lora:fluffy:0.8> a cat", "a cat"),
        ("a cat, <lora:fluffy:0.8>, a dog", "a cat, a dog"),
        ("a cat, <lora:a:1>, <hypernet:b:0.5>,<lyco:c>, a dog", "a cat, a dog"),
        ("photo of <lora:x:1> a cat", "photo of a cat"),
        ("a cat<lora:x:1:lbw=1,0,0>, a dog", "a cat, a dog"),
        ("(<lora:x:1>:1.2), a dog", "a dog"),
        ("i <3 you", "i <3 you"),
        # attention
        ("a (red:1.3) cat", "a red cat"),
        ("a ((red)) [blue] cat", "a red blue cat"),
        ("(((house:1.3)) [on] a (hill:0.5), sun, (((sky)))).", "house on a hill, sun, sky."),
        ("(a cat, (orange:1.1):.9)", "a cat, orange"),
        ("(ratio 16:9)", "ratio 16"),
        ("ratio 16:9", "ratio 16:9"),
        ("(note: this)", "note: this"),
        ("(unbalanced", "unbalanced"),
        ("[a (b] c", "a b c"),
        ("smile :)", "smile :)"),
        # escapes
        (r"ishtar \(fate\)", "ishtar (fate)"),
        (r"\[x\] back\\slash", r"[x] back\slash"),
        (r"(\(^o^\):1.2)", "(^o^)"),
        # editing and alternation
        ("a [mountain:lake:0.25] view", "a lake view"),
        ("an [oak:10] tree", "an oak tree"),
        ("a park[, in fog::0.6], people", "a park, people"),
        ("[shoddy:masterful:0.5], [:in background:0.25]", "masterful, in background"),
        ("a[b:[c:d:2]:1]e", "ade"),
        ("[(a:2):3]", "a"),
        ("[cow|horse] in a field", "cow horse in a field"),
        ("[fe|]male", "female"),
        ("[|]", ""),
        ("(a|b)", "a|b"),
        ("[cow|horse:0.5]", "cow horse"),
        # parts
        ("a cat BREAK a dog", "a cat, a dog"),
        ("a cat,\nBREAK\na dog", "a cat, a dog"),
        ("a cat :1.2 AND a dog:0.5", "a cat, a dog"),
        ("BREAKFAST at TIFFANY", "BREAKFAST at TIFFANY"),
        ("BRANDY AND ", "BRANDY"),
        ("ünïcode, 日本語 (猫:1.2)", "ünïcode, 日本語 猫"),
    ],
)
def test_plain_prompt(prompt, plain):
    assert plain_prompt(prompt) == plain


def test_commas_of_the_user_stay_as_they_are():
    assert plain_prompt("a,, b , c,") == "a,, b , c,"


def test_not_a_string():
    with pytest.raises(PromptError, match="NoneType"):
        plain_prompt(None)


@pytest.mark.parametrize("unit", ["(", "[a:", ")", "(a:1)", "[a|", " ", ":", "<lora:", "\\", ", ", "a AND ", "(a)]["])
def test_long_prompts_take_linear_time(unit):
    start = time.perf_counter()
    plain_prompt(unit * 100_000)
    assert time.perf_counter() - start < 30  # quadratic time would take hours


def test_deep_nesting():
    text = "x" * 100_000
    assert plain_prompt("(" * 100_000 + text + ":1.2)" + ")" * 99_999).startswith(text)


@given(st.text(st.characters(blacklist_characters="\\()[]:|<>", blacklist_categories=("Cs", "Cc"))))
def test_without_syntax_only_white_space_changes(text):
    words = text.replace("BREAK", "").replace("AND", "")
    assert plain_prompt(words) == " ".join(words.split())


@given(st.text("ab ,:|()[]<>\\1.ANDBREK\n\0\x01", max_size=60))
def test_any_text_gives_text(text):
    plain = plain_prompt(text)
    assert plain == plain.strip()
    assert "\0" not in plain and "\x01" not in plain
