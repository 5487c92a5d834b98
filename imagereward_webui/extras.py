"""The Extras tab: score images that exist already, each with the prompt it was made from."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from modules import scripts_postprocessing

from . import extras_table, host, infotext, report, scorer_list
from . import panel as widgets
from .core import logger, metadata, naming, plain_prompt
from .fields import BY_ATTR
from .judges import Judged, Judges, judges_of, stored_name
from .lifecycle import available, holder
from .remember import memory, record_of
from .request import ScoreRequest
from .results import Meaning


class ScriptPostprocessingImageReward(scripts_postprocessing.ScriptPostprocessing):
    """Scores each image of the tab (single, batch, from directory); the result stands in its info."""

    name = "ImageReward"
    order = 20000  # after upscaling and face restoration: the final pixels count
    extra_only = True  # reForge: not in the main tabs, where the accordion does this

    def ui(self) -> dict[str, Any]:
        with widgets.input_accordion("ImageReward score", "extras_imagereward_enable") as enable:
            scorer = scorer_list.dropdown(
                "Scorer", "extras_imagereward_scorer", status_id="extras_imagereward_scorer_status"
            )
            several = gr.Dropdown(
                label="Panel",
                choices=available(host.models_dir()),
                value=[],
                multiselect=True,
                elem_id="extras_imagereward_panel",
            )
            prompt = gr.Textbox(
                label="Prompt for images without infotext", value="", elem_id="extras_imagereward_prompt"
            )
            constants = gr.Textbox(
                label=BY_ATTR["panel_constants"].label, value="", elem_id="extras_imagereward_panel_constants"
            )
        # Forge Neo's page takes a list among the last two inputs for its gallery, and cuts the rest off: Extras would
        # fail altogether
        return {"enable": enable, "panel": several, "scorer": scorer, "prompt": prompt, "constants": constants}

    def process(
        self,
        pp: Any,
        enable: bool | None = None,
        scorer: str | None = None,
        prompt: str | None = None,
        panel: list[str] | None = None,
        constants: str | None = None,
    ) -> None:
        host.make_room_for_pictures()
        if not enable or not scorer:  # the old Extras API sends None to every script but its own
            return
        row = extras_table.Row(file=host.extras_file(), scorer=scorer, prompt="", image=pp.image)
        extras_table.add(row)
        key = infotext.SCORE_KEY
        try:
            request = ScoreRequest.from_api({"scorer": scorer, "panel": panel, "panel_constants": constants})
            own_key = infotext.usable_key(host.option("key"))[0]
            judges = judges_of(request.scorers, bool(request.panel), host.models_dir(), own_key, request.constants)
            key = judges.key
            words, missing = prompt_in(pp.image)
            row.scorer, row.scale = " + ".join(judges.names), judges.scale
            row.prompt = words = words or plain_prompt(prompt or "")
            if not words and judges.uses_prompt:
                row.note = f"not scored, {missing}"
                return
            stored = {name: stored_name(name, host.models_dir()) for name in judges.names}
            seen: dict[str, dict[int, Any]] | None = {} if memory.wanted() else None
            if memory.of_one_person():
                memory.prepare(stored.values())
            by_scorer = holder.score_by(judges.names, words, [pp.image], seen)
            judged = judges.at_once(words, by_scorer)
            row.score = judged.score
            row.meaning = meaning_of(stored, by_scorer, pp.image)
            if seen is not None:
                row.remember = functools.partial(
                    record_of,
                    judges=judges,
                    stored=stored,
                    values={name: values[0] for name, values in by_scorer.items()},
                    words=words,
                    embeddings={name: rows[0] for name, rows in seen.items() if rows},
                )
            row.note = judges.no_limit if judged.score is None else ""
            pp.info.update(pairs_of(judges, judged, int(host.option("decimals"))))
        except Exception as error:  # noqa: BLE001 - the other postprocessing scripts' work must not be lost
            logger.warning("image not scored: %s", error)
            row.note = f"not scored, {error}"
        finally:
            notes = holder.take_notes()
            row.note = row.note or "; ".join(notes)
            if row.note:
                pp.info[f"{key} note"] = row.note
            if (
                host.at_last_image()
            ):  # not after each: a directory of images would move or load the scorer for every one
                holder.after_job()


def pairs_of(judges: Judges, judged: Judged, decimals: int) -> dict[str, str]:
    """The values for the image's info; a panel's where it means the same in every job, since each image is a job."""
    values: dict[str, float | None] = {judges.key: judged.score}
    if judges.is_panel:
        values[naming.DISAGREEMENT_KEY] = judged.disagreement
        values |= {judges.keys[name]: value for name, value in judged.by_scorer.items()}
    pairs = {key: infotext.format_score(value, decimals) for key, value in values.items() if value is not None}
    if not judges.absolute:
        pairs[f"{judges.key} note"] = judges.no_limit
    return pairs


def meaning_of(stored: Mapping[str, str], by_scorer: Mapping[str, Sequence[float]], image: Any) -> str:
    """Where an image's scores stand among the user's own pictures, a sentence a scorer, and what to think of it."""
    if not memory.of_one_person():
        return ""
    checkpoint = host.checkpoint_of(image)
    places = {name: memory.place(stored[name], values[0], checkpoint) for name, values in by_scorer.items()}
    return report.meaning_text(Meaning({name: place for name, place in places.items() if place is not None}))


def prompt_in(image: Any) -> tuple[str, str]:
    """(the prompt an image carries, in plain words, "" if there is none; why there is none)."""
    found = metadata.prompt_in_image(image)
    if isinstance(found, metadata.FoundPrompt):
        return found.words, ""
    if isinstance(found, metadata.ForeignText):
        return "", f"the image carries no prompt: {metadata.reason(found)}"
    # hosts also read what is hidden in the pixels
    return plain_prompt(host.read_infotext(image).get("Prompt") or ""), "the image carries no prompt"
