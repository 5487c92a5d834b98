"""The left half of the tab: Basic, which a newcomer needs, and Advanced, where each field has a line of help.

Widgets are made from the table in `form.FIELDS`; what they hold goes back into its terms by `Form.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from .. import host
from ..core import ImageRewardError, logger, presets, prompt_files
from . import api, checkpoints, picks, rewards, saved, view
from . import host as refl_host
from .codecs import FROM_PICKS, MY_TASTE, learns_picks
from .form import BASIC, BY_NAME, FIELDS, GROUPS, HOW_FAR, Field, SettingError, form_settings, how_far, prompts_in

ID = "imagereward_refl_"
THESE, IMAGES, BOTH = "These prompts", "Prompts of my images", "Both"
FEWEST, FEW = 8, 50  # prompts: fewer are refused, fewer are warned about
STARTER = Path(__file__).with_name("starter_prompts.txt")
FAR = "quick try: to see that it works; normal: a first real run; careful: longer, in smaller steps"
SCORERS = ("reward", "second_reward", "judge")
NONE, UNTRAINABLE, ABSENT = "none", " — cannot be trained: ", " — to be downloaded, "
Update = Any


class Form:
    """The form's widgets: `widgets` by field name, `source` in place of the field from_outputs."""

    def __init__(self) -> None:
        self.widgets: dict[str, Any] = {}
        self._basic()
        self._advanced()

    # --- what it is made of ----------------------------------------------------------------------------------------

    def _basic(self) -> None:
        with gr.Row():
            self.widgets["checkpoint"] = _widget(BY_NAME["checkpoint"], scale=8)
            self.refresh = host.tool_button("🔄", size="sm", scale=1, min_width=40, elem_id=ID + "refresh")
        self.about = gr.HTML(elem_id=ID + "about")
        self.widgets["learn"] = _widget(BY_NAME["learn"])
        with gr.Column(elem_id=ID + "of_reward") as self.of_reward:
            self.source = gr.Radio(
                choices=[THESE, IMAGES, BOTH], value=THESE, label="Prompts", interactive=True, elem_id=ID + "source"
            )
            self.widgets["prompts"] = _widget(BY_NAME["prompts"], value=STARTER.read_text(encoding="utf-8").strip())
            with gr.Row():
                types = [".txt", ".json", ".jsonl", ".csv", ".tsv"]
                self.file = gr.UploadButton("Load a file of prompts", file_types=types, size="sm", elem_id=ID + "file")
                self.starter = gr.Button("Our 64 prompts", size="sm", elem_id=ID + "starter")
            self.count = gr.HTML(prompts_note(THESE, STARTER.read_text(encoding="utf-8")), elem_id=ID + "count")
        with gr.Column(visible=False, elem_id=ID + "of_picks") as self.of_picks:
            self.widgets["picks"] = _widget(BY_NAME["picks"])
            self.widgets["picks_file"] = _widget(BY_NAME["picks_file"])
            self.picks_count = gr.HTML(elem_id=ID + "picks_count")
        self.far = gr.Radio(
            choices=list(HOW_FAR), value="normal", label="How far", info=FAR, interactive=True, elem_id=ID + "far"
        )
        with gr.Row():
            self.start = gr.Button("Start", variant="primary", elem_id=ID + "start")
            self.estimate = gr.Button("Estimate memory", elem_id=ID + "estimate")
        self.said = gr.HTML(elem_id=ID + "said")

    def _advanced(self) -> None:
        with gr.Accordion("Advanced", open=False, elem_id=ID + "advanced"):
            with gr.Row():
                self.preset = gr.Dropdown(
                    choices=saved_names(),
                    label="Saved settings",
                    interactive=True,
                    scale=4,
                    elem_id=ID + "preset_choice",
                )
                self.preset_name = gr.Textbox(label="Save as", interactive=True, scale=4, elem_id=ID + "preset_name")
            with gr.Row():
                self.load = gr.Button("Load", size="sm", elem_id=ID + "preset_load")
                self.save = gr.Button("Save", size="sm", elem_id=ID + "preset_save")
                self.forget = gr.Button("Delete", size="sm", elem_id=ID + "preset_delete")
            for group in GROUPS[1:]:
                gr.HTML(f'<h4 class="imagereward-refl-group">{view.text(group)}</h4>')
                fields = [field for field in FIELDS if field.group == group]
                for start in range(0, len(fields), 2):
                    with gr.Row():
                        for field in fields[start : start + 2]:
                            self.widgets[field.name] = _widget(field)
            self.keep = gr.Checkbox(
                label="Go on when the WebUI ends",
                info="the run is a process of its own; without this it saves and stops",
                interactive=True,
                elem_id=ID + "keep",
            )

    # --- between widgets and settings ------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Fields in the order of `inputs`."""
        return [field.name for field in FIELDS if field.name != "from_outputs"]

    @property
    def inputs(self) -> list[Any]:
        """`source`, then every field's widget."""
        return [self.source, *(self.widgets[name] for name in self.names)]

    def settings(self, source: str, *values: Any) -> dict[str, Any]:
        """The form in the terms of `build_config`."""
        found = dict(zip(self.names, values))
        found = {name: BY_NAME[name].default if value is None else value for name, value in found.items()}
        found |= {name: meant(name, found[name]) for name in ("checkpoint", *SCORERS)}
        if source == IMAGES:
            found["prompts"] = ""
        return {**found, "from_outputs": source != THESE}

    def filled(self, settings: Mapping[str, Any]) -> list[Update]:
        """Updates of `inputs` for these settings; what they do not name stays."""
        found = [self._source(settings)]
        for name in self.names:
            value = settings.get(name)
            kept = name == "checkpoint" or (name == "prompts" and settings.get("learn") == FROM_PICKS)
            if name not in settings or (kept and not value):
                found.append(gr.update())
            elif name == "picks":
                found.append(gr.update(choices=list(dict.fromkeys([MY_TASTE, value])), value=value))
            elif name == "checkpoint" or name in SCORERS:
                found.append(gr.update(value=shown(name, str(value or ""))))
            else:
                found.append(gr.update(value="\n".join(value) if isinstance(value, list) else value))
        return found

    @staticmethod
    def _source(settings: Mapping[str, Any]) -> Update:
        if "from_outputs" not in settings:
            return gr.update()
        both = BOTH if settings.get("prompts") else IMAGES
        return gr.update(value=both if settings["from_outputs"] else THESE)


def _widget(field: Field, **changes: Any) -> Any:
    """The gradio component of a field."""
    given = {
        "label": field.label,
        "info": field.help or None,
        "value": default(field),
        "interactive": True,
        "elem_id": ID + field.name,
        **changes,
    }
    if field.name == "learn":
        return gr.Radio(choices=plain_choices(field), **given)
    if field.kind == "lines":
        return gr.Textbox(lines=6, max_lines=12, **given)
    if field.kind == "text":
        return gr.Textbox(**given)
    if field.kind in ("int", "float"):
        return gr.Number(**given, **({"precision": 0} if field.kind == "int" else {}))
    return gr.Dropdown(choices=plain_choices(field), **given)


def plain_choices(field: Field) -> list[str]:
    """What a field offers, by name alone: the UI is not kept waiting for a look into every file."""
    if field.name == "checkpoint":
        return [item["title"] for item in refl_host.checkpoints()]
    if field.name in SCORERS:
        return _scorers(field.name)
    if field.name == "picks":
        return [MY_TASTE]  # the library is asked when its picks are wanted
    return list(field.choices)


def _scorers(name: str) -> list[str]:
    return rewards.usable() if name == "reward" else [NONE, *api.scorers()]


# gradio 3 knows no labels beside a drop-down's values, so that a value carries its mark, and `meant` takes it off.


def marked_choices(name: str) -> list[str]:
    """What the field of the checkpoint, or one of scorers, offers, each with what there is to say of it; checkpoints
    that cannot be trained come last.
    """
    if name in SCORERS:
        return [shown(name, scorer) for scorer in _scorers(name)]
    found = [shown(name, item["title"]) for item in refl_host.checkpoints()]
    return sorted(found, key=_is_refused)


def _is_refused(text: str) -> bool:
    return UNTRAINABLE in text


def shown(name: str, value: str) -> str:
    """A value of such a field as its list has it."""
    if name == "checkpoint":
        why = checkpoints.why_not(refl_host.checkpoint_path(value))
        return f"{value}{UNTRAINABLE}{why}" if why else value
    size = rewards.to_download(value) if value not in ("", NONE) else 0
    return f"{value}{ABSENT}{size / 1e9:.1f} GB" if size else value or NONE


def meant(name: str, text: str | None) -> str:
    """The value that stands behind a list's text: the inverse of `shown`."""
    if name == "checkpoint":
        return (text or "").partition(UNTRAINABLE)[0]
    value = (text or "").partition(ABSENT)[0]
    return "" if value == NONE else value


def default(field: Field) -> Any:
    """What a field starts with on this host and machine."""
    if field.name == "checkpoint":
        return refl_host.selected_checkpoint() or None
    if field.name in ("second_reward", "judge"):
        return NONE
    if field.name == "guidance":
        return refl_host.guidance() or field.default
    if field.name == "preset":
        return presets.of_memory(host.vram_gb(host.device()))
    return field.default


def saved_names() -> list[str]:
    """Names of saved settings; none where their file is damaged, which the log says."""
    try:
        return sorted(store().all())
    except ImageRewardError as error:
        logger.warning("the saved settings cannot be read: %s", error)
        return []


def store() -> saved.SavedSettings:
    """Where settings are saved."""
    return saved.SavedSettings(refl_host.runs_folder())


def kept_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a form's settings that are saved under a name: not what belongs to one checkpoint or one run."""
    return {
        field.name: settings[field.name] for field in FIELDS if field.group != BASIC and field.name != "output_name"
    }


def about(title: str) -> str:
    """What the chosen checkpoint is, or why there is none. title: as the list has it."""
    title = meant("checkpoint", title)
    if not title:
        return view.note("No checkpoint is chosen: the WebUI does not say which one it uses. Choose one.", "warning")
    path = refl_host.checkpoint_path(title)
    if not path:
        return view.note(f"The WebUI has no checkpoint {title} any more: refresh the list.", "error")
    why = checkpoints.why_not(path)
    if why:
        known = ", ".join(checkpoints.FAMILIES.values())
        return view.note(f"It cannot be trained: {why}. Choose a checkpoint of {known}.", "error")
    family = checkpoints.FAMILIES.get(checkpoints.family(path), "")
    selected = refl_host.selected_checkpoint()
    other = f" The WebUI itself has {selected} selected." if selected and selected != title else ""
    return view.note(f"{family}.{other}" if family else f"Its kind shows when it is loaded.{other}")


def prompts_note(source: str, text: str) -> str:
    """How many prompts there are, three of them, and whether they suffice."""
    if source == IMAGES:
        return view.note(f"The prompts of the images in {refl_host.outputs_folder()} are read when the run starts.")
    try:
        prompts = prompts_in(text)
    except SettingError as error:
        return view.note(str(error), "error")
    also = " Those of your images are added." if source == BOTH else ""
    told = f"{prompt_files.describe(prompts).rstrip('.')}.{also}".replace(", ….", ", …")
    if source == BOTH or len(prompts) >= FEW:
        return view.note(told)
    if len(prompts) < FEWEST:
        return view.note(f"{told} At least {FEWEST} are needed.", "error")
    return view.note(
        f"{told} That is few: {held_out(len(prompts), FEW)} are held out to judge by, and the model may learn these"
        f" prompts instead of the taste. {FEW} or more are better.",
        "warning",
    )


def held_out(count: int, wanted: int) -> int:
    """How many of `count` prompts are held out: a quarter at most, so that most are trained on."""
    return max(1, min(wanted, count // 4))


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as a start takes them. SettingError for too few prompts or picks. Picks bring their prompts."""
    if learns_picks(settings):
        enough = len(picks.enough(settings).prompts) >= picks.FEWEST_PROMPTS
        return {**settings, **({"prompts": "", "from_outputs": False} if enough else {})}
    if settings["from_outputs"]:
        return dict(settings)
    count = len(prompts_in(settings["prompts"]))
    if count < FEWEST:
        raise SettingError(f"Prompts: there are {count}, and at least {FEWEST} are needed; load our 64 to begin with")
    wanted = BY_NAME["held_out"].checked(settings["held_out"])
    return {**settings, "held_out": held_out(count, int(wanted))}


def budget(name: str, title: str | None) -> dict[str, Any]:
    """The fields that "how far" decides for the chosen checkpoint."""
    return how_far(name, checkpoints.family(refl_host.checkpoint_path(meant("checkpoint", title))))


def settled(settings: Mapping[str, Any], far: str) -> dict[str, Any]:
    """The settings with what "how far" decides, unless the user wrote numbers of their own.

    Its numbers reach the fields by way of the server. Who presses Start before they do sends those of the choice
    before it, and means the new one.
    """
    title = settings["checkpoint"]
    known = [how_far(name, family) for name in HOW_FAR for family in ("", "sdxl")]
    untouched = any(all(settings[key] == value for key, value in found.items()) for found in known)
    return {**settings, **(budget(far, title) if untouched and far in HOW_FAR else {})}


def of_run(run_id: str) -> dict[str, Any]:
    """A run's settings in the form's terms."""
    return form_settings(api.runs().config(run_id), api.runs().promised())


def read_file(file: Any) -> str:
    """The prompts in an uploaded file, one a line. DataError says what is wrong with it."""
    path = Path(getattr(file, "name", file))
    return "\n".join(prompt_files.prompts_in(path.name, prompt_files.read_file(path)))
