"""One table drives widgets, arguments, infotext and API; it and the dataclass may not drift apart."""

import dataclasses

import pytest


@pytest.fixture
def table(host):
    return host.part("fields").FIELDS


def test_table_and_dataclass_are_equal_both_ways(host, table):
    fields = dataclasses.fields(host.part("request").ScoreRequest)
    assert [(f.name, f.default) for f in fields] == [(f.attr, f.default) for f in table]


def test_defaults_are_valid_and_off(host, table):
    request = host.part("request").ScoreRequest
    assert request.from_api({f.attr: f.default for f in table}) == request()
    assert not request().enabled


def test_infotext_keys_can_be_read_back_by_the_host(host, table):
    from .fakehost import infotext

    line = ", ".join(f"{f.infotext}: x" for f in table if f.infotext)
    parsed = infotext.parse("a cat\n" + line)
    assert [key for key in parsed if key not in ("Prompt", "Negative prompt")] == [
        f.infotext for f in table if f.infotext
    ]


def test_widgets_follow_the_table(host, table):
    script = next(s for s in host.runners["txt2img"].scripts if s.title() == "ImageReward")
    widgets = script.ui(False)
    assert [w.value for w in widgets] == [f.shown(f.default) for f in table]
    assert [w.elem_id for w in widgets][1:] == [f"script_txt2img_imagereward_{f.attr}" for f in table[1:]]
    assert all(w.label for w in widgets)


def test_labels_are_unique_over_both_scripts(host):
    """Two components with one label in one script file would share a saved default."""
    labels = [w.label for s in host.runners["txt2img"].scripts for w in s.ui(False)]
    assert len(labels) == len(set(labels))


def test_schema_lists_the_table(host, table):
    schema = host.part("api").schema()
    assert [arg["name"] for arg in schema["args"]] == [f.attr for f in table]


def test_a_row_of_the_table_is_all_that_the_accordion_needs(host, table, monkeypatch):
    panel = host.part("panel")
    more = host.part("fields").Field("dummy", "A dummy", "int", 3, "ImageReward dummy")
    monkeypatch.setattr(panel, "FIELDS", (*table, more))
    inputs, fields, names = panel.accordion(lambda name: name)
    assert (inputs[-1].label, inputs[-1].value, inputs[-1].elem_id) == ("A dummy", 3, "dummy")
    assert len(inputs) == len(fields) == len(names) == len(table) + 1
