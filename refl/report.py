"""report.html: what a run did, in one file that opens anywhere (no scripts, pictures inside)."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

from imagereward_core import atomic
from imagereward_core.prompt_files import describe
from imagereward_core.runs import EventKind, Name
from imagereward_core.runs.drawing import figures
from imagereward_core.runs.measures import by_strength, curves

from .config import ReFLConfig
from .data import PromptSet
from .dial import Dial
from .errors import SaveError
from .judges import here, nobody
from .metrics import MIXED, Evaluation, changes, paired_change, win_rate
from .runfiles import read_events

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse}
td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}.curves{display:flex;flex-wrap:wrap;gap:12px}
figure{margin:0;width:300px}figcaption{font-size:.85em;color:#555}
.wall{display:flex;gap:16px;align-items:flex-start}.wall img{max-width:100%;image-rendering:auto}
.note{padding:.7em 1em;background:#fff4d6;border-left:4px solid #e0a800}
pre{font-size:.8em;background:#f6f6f6;padding:1em;overflow:auto}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}
td,th{border-color:#444}pre{background:#222}
.note{background:#3a3010}}
"""


PICKED = "log likelihood of held-out picks"


def write_report(
    folder: Path,
    config: ReFLConfig,
    base: Evaluation,
    history: Sequence[Evaluation],
    chosen: int,
    state: str,
    reason: str,
    prompts: PromptSet | None = None,
    dial: Dial | None = None,
) -> Path:
    """Write report.html into the run folder. `chosen` is the exported update; of `prompts` the number and the first are
    shown; `dial` is what the result does at which strength. SaveError if it cannot be written.
    """
    result = next((item for item in reversed(history) if item.step == chosen), history[-1])
    events = read_events(folder / Name.EVENTS)
    kind = "Fine-tuning on picks" if config.learns_picks else "Reward fine-tuning"
    steps = [event for event in events if event["type"] == EventKind.STEP]
    evaluations = [{**item.summary(), "changes": changes(base, item)} for item in history]
    parts = [
        f"<h1>{kind} of {_text(Path(config.pretrained_model_name_or_path).name or 'a model')}</h1>",
        (
            f"<p>{_text(config.algorithm)}, anchor {_text(str(config.anchor))}, {len(steps)} updates, exported: update"
            f" {chosen}. State: {_text(state)}.</p>"
        ),
        f'<p class="note">{_text(reason)}</p>' if reason else "",
        _trained_on(prompts) if prompts else "",
        _watched(base, config),
        "<h2>Result on held-out prompts, same seeds before and after</h2>",
        _table(base, result, PICKED if config.learns_picks else MIXED),
        _dial(dial) if dial else "",
        "<h2>Curves</h2>",
        f'<div class="curves">{figures(curves(steps, evaluations))}</div>',
        _wall(folder, chosen),
        "<h2>Settings</h2>",
        f"<pre>{_text(json.dumps(dataclasses.asdict(config), indent=1))}</pre>",
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>ReFL"
        f" report</title><style>{STYLE}</style>{''.join(parts)}</html>"
    )
    target = folder / Name.REPORT
    try:
        atomic.write_bytes(target, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise SaveError(f"cannot write {target}: {error}") from error
    return target


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def _trained_on(prompts: PromptSet) -> str:
    """What was read as prompts: a file of another layout than expected shows here."""
    return f"<p>Trained on {_text(describe(prompts.train))}; held out {_text(describe(prompts.held_out))}</p>"


def _watched(base: Evaluation, config: ReFLConfig) -> str:
    """Who judged, or that nobody did."""
    if base.judges:
        return f"<p>Judges, which are not trained on: {_text(', '.join(base.judges))}.</p>"
    return f'<p class="note">{_text(nobody(config.aims, here(config.models_dir)))}</p>'


def _table(base: Evaluation, result: Evaluation, aim: str) -> str:
    rows = [
        "<table><tr><th>score</th><th>base</th><th>tuned</th><th>change ± s.e.</th><th>tuned wins (95 %"
        " interval)</th></tr>"
    ]
    for name in [MIXED, *sorted(set(base.scores) - {MIXED})]:
        before, after = base.scores[name], result.scores[name]
        change, error = paired_change(before, after)
        share, low, high = win_rate(before, after)
        kind = " (judge)" if name in base.judges else "" if aim == PICKED else " (trained on)"
        label = aim if name == MIXED else name
        rows.append(
            f"<tr><td>{_text(label)}{kind}</td><td>{_mean(before):.3f}</td><td>{_mean(after):.3f}</td>"
            f"<td>{change:+.3f} ± {error:.3f}</td><td>{share:.0%} ({low:.0%} to {high:.0%})</td></tr>"
        )
    for label, field in (
        ("seed diversity", "diversity"),
        ("saturation", "saturation"),
        ("contrast", "contrast"),
        ("denoising error", "eps_mse"),
        ("length of the output", "inflation"),
    ):
        before_value, after_value = getattr(base, field), getattr(result, field)
        ratio = f"{after_value / before_value:.2f} ×" if before_value else ""
        rows.append(
            f"<tr><td>{label}</td><td>{before_value:.4f}</td><td>{after_value:.4f}</td><td>{ratio}</td><td></td></tr>"
        )
    if math.isfinite(result.pick_accuracy):
        rows.append(
            "<tr><td>held-out picks that come true</td><td>50%</td>"
            f"<td>{result.pick_accuracy:.0%}</td><td></td><td></td></tr>"
        )
    return "".join(rows) + "</table>"


def _dial(dial: Dial) -> str:
    judges = list(dial.marks[0][1].judges)
    head = "".join(f"<th>{_text(name)}</th>" for name in ["strength", "reward", *judges, "seed diversity", ""])
    rows = []
    for strength, found, verdict in dial.marks:
        values = [found.reward, *(found.judges[name] for name in judges), found.diversity]
        cells = "".join(f"<td>{value:.3f}</td>" for value in values)
        rows.append(f"<tr><td>{strength:g}</td>{cells}<td>{_text(verdict)}</td></tr>")
    drawn = figures(by_strength(dial.rows(), dial.use))
    return (
        f"<h2>Alignment dial</h2><p><b>{_text(dial.advice)}</b></p><table><tr>{head}</tr>{''.join(rows)}</table>"
        f'<div class="curves">{drawn}</div>'
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _wall(folder: Path, chosen: int) -> str:
    figures = []
    for label, step in (("base", 0), (f"update {chosen}", chosen)):
        path = folder / Name.SAMPLES / f"step-{step:06d}.png"
        if path.is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            figures.append(
                f'<figure><img alt="{label}" src="data:image/png;base64,{data}"><figcaption>{label}; a row is a prompt,'
                " a column a seed</figcaption></figure>"
            )
    return "<h2>Before and after</h2><div class=wall>" + "".join(figures) + "</div>" if figures else ""
