"""The main job in one run: generate, score, keep the best, write everything into the files, and read it back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin

from imagereward_core import metadata
from imagereward_core.hashing import file_digest
from imagereward_core.image_files import SUFFIXES, find_images
from imagereward_core.metadata.infotext import Infotext, StoredScore, build_infotext

from .errors import SmallWorldError
from .flow_pipeline import FLOW, MODELS, STEPS, TINY_FLOW, assemble, draw_with
from .oracle import Oracle, judge
from .pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, TINY_REWARD, TINY_SD, WEIGHTS
from .report import Entry, Section, write_html, write_png
from .world import parse_caption

if TYPE_CHECKING:
    from imagereward_core.scorers import Scorer

ORACLE = WEIGHTS / "oracle.safetensors"
DEFAULT_PROMPTS: tuple[str, ...] = (
    "a large red circle on a white background",
    "a large blue star on a white background",
    "a large yellow circle below a small orange star on a black background",
    "a large green triangle on a black background",
    "a large orange star on a black background",
    "a small yellow square on a gray background",
    "a small blue circle right of a small blue star on a gray background",
    "a large purple square above a small green triangle on a black background",
)
FLOW_PROMPTS = tuple(
    prompt for prompt in DEFAULT_PROMPTS if (scene := parse_caption(prompt)) is not None and scene.relation is None
)
"""Those of one object: tiny-flow hardly draws two."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoConfig:
    """``images`` scores an existing folder instead of generating; ``model`` is anything ``imagereward_core.load``
    takes. generator: one of MODELS; prompts and steps that are left open are those that suit it.
    """

    out: Path
    prompts: tuple[str, ...] | None = None
    count: int = 16
    threshold: float = 0.0
    seed: int = 1000
    steps: int | None = None
    guidance: float = DEFAULT_GUIDANCE
    model: str | None = None
    images: Path | None = None
    prompt: str | None = None
    generator: str = MODELS[0]

    @property
    def weights(self) -> Path:
        """The file of what draws."""
        return TINY_FLOW if self.generator == FLOW else TINY_SD

    @property
    def captions(self) -> tuple[str, ...]:
        """What is drawn."""
        if self.prompts is not None:
            return self.prompts
        return FLOW_PROMPTS if self.generator == FLOW else DEFAULT_PROMPTS

    @property
    def sampling(self) -> tuple[str, int]:
        """Name of the sampler, and the number of its steps."""
        if self.generator == FLOW:
            return "Euler", self.steps or STEPS
        return "DDIM", self.steps or DEFAULT_STEPS


@dataclass(frozen=True)
class Result:
    """Scored pictures, best first, and where the report lies."""

    kept: tuple[Entry, ...]
    hidden: tuple[Entry, ...]
    report: Path


def run_demo(config: DemoConfig, say: Say, scorer: Scorer | None = None) -> Result:
    """Do the whole job; ``say`` receives one line per step. Raises :class:`SmallWorldError` where something is
    missing.
    """
    work = config.out / "new"
    _prepare_folder(config.out)
    work.mkdir()
    if config.images is None:
        files, prompts = _draw(config, work, say)
    else:
        files, prompts = _collect(config, work, say)
    if scorer is None:
        scorer = _load_scorer(config.model, say)
    say(f"scoring {len(files)} pictures with {scorer.name}")
    scores = scorer.score_pairs(prompts, [str(file) for file in files])
    entries = []
    notes = _oracle_notes(files, prompts) if config.images is None else [""] * len(files)
    for file, prompt, score, note in zip(files, prompts, scores, notes, strict=True):
        metadata.write_score(file, StoredScore(score, scorer.name, prompt))
        target = config.out / ("kept" if score >= config.threshold else "hidden") / file.name
        target.parent.mkdir(exist_ok=True)
        file.replace(target)
        entries.append(Entry(target, prompt, score, note))
    work.rmdir()
    entries.sort(key=lambda entry: -entry.score)
    kept = tuple(entry for entry in entries if entry.score >= config.threshold)
    hidden = tuple(entry for entry in entries if entry.score < config.threshold)
    _verify(entries, say)
    report = _write_report(config, scorer.name, kept, hidden)
    return Result(kept, hidden, report)


def _prepare_folder(out: Path) -> None:
    """``out`` must be new, empty, or hold an earlier run of the demo, whose results are replaced."""
    if out.exists() and not out.is_dir():
        raise SmallWorldError(f"{out} is a file: pass a folder for the results")
    known = {"kept", "hidden", "new", "report.html", "report.png"}
    if out.is_dir():
        foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in known)
        if foreign:
            raise SmallWorldError(
                f"{out} already holds other files ({', '.join(foreign[:3])}): pass a new or empty folder"
            )
        for name in ("kept", "hidden", "new"):
            shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)


def _draw(config: DemoConfig, folder: Path, say: Say) -> tuple[list[Path], list[str]]:
    if not config.captions:
        raise SmallWorldError("no prompts: the prompt file must hold one prompt per line")
    prompts = [config.captions[index % len(config.captions)] for index in range(config.count)]
    seeds = [config.seed + index for index in range(config.count)]
    sampler, steps = config.sampling
    say(f"loading {config.weights.name}")
    say(f"drawing {config.count} pictures, {steps} steps each")
    with tempfile.TemporaryDirectory() as made:
        pictures = draw_with(
            assemble(Path(made) / FLOW) if config.generator == FLOW else TINY_SD,
            prompts,
            seeds,
            steps=steps,
            guidance=config.guidance,
            batch_size=8,
            on_batch=lambda done, total: say(f"  {done} of {total} drawn"),
        )
    digest = file_digest(config.weights)[:10]
    files = []
    for number, (picture, prompt, seed) in enumerate(zip(pictures, prompts, seeds, strict=True)):
        settings = (
            ("Steps", str(steps)),
            ("Sampler", sampler),
            ("CFG scale", f"{config.guidance:g}"),
            ("Seed", str(seed)),
            ("Size", f"{picture.width}x{picture.height}"),
            ("Model hash", digest),
            ("Model", config.generator),
        )
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", build_infotext(Infotext(prompt=prompt, settings=settings)))
        file = folder / f"{number:05d}-{seed}.png"
        picture.save(file, pnginfo=info)
        files.append(file)
    return files, prompts


def _collect(config: DemoConfig, folder: Path, say: Say) -> tuple[list[Path], list[str]]:
    """Copy a folder's images, so that the originals stay as they are, and find the prompt of each."""
    if config.images is None or not config.images.is_dir():
        raise SmallWorldError(f"{config.images} is not a folder of images")
    sources = find_images([config.images], note=say)
    if not sources:
        raise SmallWorldError(f"{config.images} holds no images ({', '.join(sorted(SUFFIXES))})")
    files, prompts = [], []
    for source in sources:
        found = metadata.read_prompt(source)
        prompt = config.prompt or (found.text if found is not None else None)
        if prompt is None:
            raise SmallWorldError(
                f"{source.name} carries no prompt: pass --prompt with the text that all images are to be scored against"
            )
        files.append(Path(shutil.copy2(source, folder / source.name)))
        prompts.append(prompt)
    say(f"copied {len(files)} images; the originals stay untouched")
    return files, prompts


def _load_scorer(model: str | None, say: Say) -> Scorer:
    import imagereward_core

    source = model or str(TINY_REWARD)
    say(f"loading {Path(source).name}")
    return imagereward_core.load(source, device="cpu" if model is None else None)


def _oracle_notes(files: Sequence[Path], prompts: Sequence[str]) -> list[str]:
    """What the independent judge says to each picture; empty for prompts outside the grammar."""
    pictures = []
    for file in files:
        with Image.open(file) as picture:
            pictures.append(picture.convert("RGB"))
    notes = []
    for prompt, reading in zip(prompts, Oracle.load(ORACLE).read(pictures), strict=True):
        scene = parse_caption(prompt)
        if scene is None:
            notes.append("")
            continue
        wrong = [name for name, right in judge(scene, reading).items() if right < 1]
        notes.append(f"oracle: wrong {', '.join(wrong)}" if wrong else "oracle: all right")
    return notes


def _verify(entries: Sequence[Entry], say: Say) -> None:
    """Read every score back from its file; a difference is an error, not a remark."""
    for entry in entries:
        stored = metadata.read_score(entry.path)
        if stored is None or abs(stored.value - entry.score) > 0.5e-4 + 1e-9:
            raise SmallWorldError(
                f"{entry.path}: wrote {entry.score:.4f}, read back {None if stored is None else stored.value}"
            )
    say(f"read back {len(entries)} scores from the files: all equal")


def _write_report(config: DemoConfig, model: str, kept: tuple[Entry, ...], hidden: tuple[Entry, ...]) -> Path:
    sampler, steps = config.sampling
    facts = [
        ("Reward model", model),
        ("Threshold", f"{config.threshold:g}"),
        ("Kept", f"{len(kept)} of {len(kept) + len(hidden)}"),
        (
            "Pictures",
            str(config.images)
            if config.images
            else f"{config.generator}, {steps} {sampler} steps, CFG {config.guidance:g}, seeds from {config.seed}",
        ),
    ]
    for name, entries in (("kept", kept), ("hidden", hidden)):
        judged = [entry for entry in entries if entry.note]
        if judged:
            right = sum(entry.note == "oracle: all right" for entry in judged)
            facts.append((f"Oracle, {name}", f"every attribute right in {right} of {len(judged)}"))
    sections = [Section("Kept", kept), Section("Hidden", hidden)]
    write_html(config.out / "report.html", "Scored and curated", facts, sections)
    write_png(config.out / "report.png", sections)
    return config.out / "report.html"


def ranked_table(result: Result) -> list[str]:
    """The lines of the ranked table: rank, score, kept or hidden, file, prompt."""
    lines = [f"{'rank':>4}  {'score':>8}  {'':6}  {'file':18}  prompt"]
    for rank, entry in enumerate((*result.kept, *result.hidden), start=1):
        state = entry.path.parent.name
        lines.append(f"{rank:>4}  {entry.score:+8.4f}  {state:6}  {entry.path.name:18}  {entry.prompt}")
    return lines
