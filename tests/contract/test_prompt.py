"""Prompts become the sentence they ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

CASES = [
    ("a cat", "a cat"),
    ("a  cat, , sitting", "a  cat, , sitting"),  # no syntax: not a character changes
    ("a cat <lora:fluffy:0.8>", "a cat"),
    ("a cat, <lora:fluffy:0.8>, cute <hypernet:x:1>", "a cat, cute"),
    ("a (red:1.2) cat", "a red cat"),
    ("((masterpiece)), [blurry] cat", "masterpiece, blurry cat"),
    ("(a (red:1.1) hat:0.9)", "a red hat"),
    ("[cat:dog:0.5] on a mat", "dog on a mat"),
    ("[smiling:0.3] cat", "smiling cat"),
    ("cat [with hat::0.3]", "cat"),
    ("a [cat|dog] here", "a cat here"),
    ("a cat BREAK a dog", "a cat a dog"),
    ("a cat :0.8 AND a dog :1.2", "a cat a dog"),
    ("a cat \\(sitting\\) (big:1.3)", "a cat (sitting) big"),
    ("time: 12:30 o'clock", "time: 12:30 o'clock"),
    ("a < b and c > d", "a < b and c > d"),
    ("unclosed (cat", "unclosed cat"),
    ("breaking news AND", "breaking news"),
    ("", ""),
]


@pytest.mark.parametrize(("written", "plain"), CASES)
def test_cases(host, written, plain):
    assert host.part("prompt").plain_prompt(written) == plain


def test_any_text_is_survived(host):
    plain_prompt = host.part("prompt").plain_prompt

    @given(st.text(alphabet="ab ,:|()[]\\<>0.5ANDBREK\n", max_size=40))
    def check(text):
        plain = plain_prompt(text)
        assert isinstance(plain, str)
        if not set("()[]\\<>") & set(text) and "AND" not in text and "BREAK" not in text:
            assert plain == text

    check()
