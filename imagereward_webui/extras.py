"""The Extras tab: score images that exist already, each with the prompt it was made from."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import scripts_postprocessing

from . import extras_table, host, infotext, panel, scorer_list
from .core import logger, metadata, plain_prompt, registry
from .lifecycle import holder


class ScriptPostprocessingImageReward(scripts_postprocessing.ScriptPostprocessing):
    """Scores each image of the tab (single, batch, from directory); the result stands in its info."""

    name = "ImageReward"
    order = 20000  # after upscaling and face restoration: the final pixels count
    extra_only = True  # reForge: not in the main tabs, where the accordion does this

    def ui(self) -> dict[str, Any]:
        with panel.input_accordion("ImageReward score", "extras_imagereward_enable") as enable:
            scorer = scorer_list.dropdown(
                "Scorer", "extras_imagereward_scorer", status_id="extras_imagereward_scorer_status"
            )
            prompt = gr.Textbox(
                label="Prompt for images without infotext", value="", elem_id="extras_imagereward_prompt"
            )
        return {"enable": enable, "scorer": scorer, "prompt": prompt}

    def process(
        self, pp: Any, enable: bool | None = None, scorer: str | None = None, prompt: str | None = None
    ) -> None:
        if not enable or not scorer:  # the old Extras API sends None to every script but its own
            return
        row = extras_table.Row(file=host.extras_file(), scorer=scorer, prompt="", image=pp.image)
        extras_table.add(row)
        key = infotext.score_key(scorer, host.option("key"))
        try:
            words, missing = prompt_in(pp.image)
            row.prompt = words = words or plain_prompt(prompt or "")
            if not words and registry.describe(scorer).uses_prompt:
                row.note = f"not scored, {missing}"
                return
            row.score = holder.score(scorer, words, [pp.image])[0]
            pp.info[key] = infotext.format_score(row.score, int(host.option("decimals")))
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


def prompt_in(image: Any) -> tuple[str, str]:
    """(the prompt an image carries, in plain words, "" if there is none; why there is none)."""
    found = metadata.prompt_in_image(image)
    if isinstance(found, metadata.FoundPrompt):
        return found.words, ""
    if isinstance(found, metadata.ForeignText):
        return "", f"the image carries no prompt: {metadata.reason(found)}"
    # hosts also read what is hidden in the pixels
    return plain_prompt(host.read_infotext(image).get("Prompt") or ""), "the image carries no prompt"
