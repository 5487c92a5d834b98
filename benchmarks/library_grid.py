"""How does the library tab's grid scroll over 10,000 pictures? A library with real files is made, the tab is opened in
Chromium in both gradio versions, and the time between frames is taken while it scrolls.

    python benchmarks/library_grid.py [--rows 10000] [--folder DIR] [--out benchmarks/results/library_grid.json]

Needs playwright, a Chromium and what `python tests/browser/make_envs.py` makes. Bars: half of all frames come within
34 ms (30 a second) where somebody reads along or scrolls fast; of 10,000 pictures at most 100 exist as elements. What
else goes on on the machine is part of the frames, so its load is written down with them.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from imagereward_core.library import Made, Score, images, open_library  # noqa: E402
from imagereward_core.library.records import Seen  # noqa: E402
from tests.browser.conftest import served  # noqa: E402
from tests.browser.test_library_page import HOST  # noqa: E402

SUBJECTS = (
    "a red fox in the snow",
    "an old lighthouse, storm",
    "two dancers",
    "a glass city at night",
    "a sleeping cat",
)
CHECKPOINTS = (("first", "d91d35736d"), ("second", "31e35c80fc"), ("third", "879db523c3"))
SCROLL = """([ms, step]) => new Promise((done) => {
    const box = document.querySelector(".imagereward-library-grid"), gaps = [], begin = performance.now();
    let last = begin;
    const tick = (now) => {
        gaps.push(now - last);
        last = now;
        box.scrollTop += step;
        now - begin < ms ? requestAnimationFrame(tick) : done(gaps.slice(2));
    };
    requestAnimationFrame(tick);
})"""
PACES = {"idle": 0, "reading": 12, "fast": 120, "a page a frame": 1200}  # pixels a frame


def fill(folder: pathlib.Path, rows: int) -> None:
    """`rows` small JPEGs in twelve folders, with prompts, checkpoints and scores."""
    rng = np.random.default_rng(0)
    with open_library(folder / "imagereward-library.sqlite") as library:
        for start in range(0, rows, 500):
            with library.transaction():
                for row in range(start, min(rows, start + 500)):
                    path = folder / "outputs" / f"{row * 12 // rows + 1:02}" / f"{row:05}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    colours = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                    picture = colours.resize((384, 512 if row % 3 else 384), Image.Resampling.BICUBIC)
                    ImageDraw.Draw(picture).text((20, 20), str(row), fill="white")
                    picture.save(path, quality=70)
                    found = path.stat()
                    name, digest = CHECKPOINTS[row % 7 % 3]
                    made = Made(
                        prompt=f"{SUBJECTS[row % 5]}, variation {row // 40}",
                        negative="blurry",
                        seed=row,
                        sampler="Euler a",
                        steps=20 + row % 3 * 5,
                        cfg=7.0,
                        checkpoint=name,
                        checkpoint_hash=digest,
                    )
                    seen = Seen(str(path), row.to_bytes(16, "big"), *picture.size, found.st_size, found.st_mtime_ns)
                    number = images.put_picture(library, seen, made, 1767225600.0 + row * 3000)
                    score = float(rng.normal() * 0.8 + (0.5 if name == "first" else 0))
                    images.put_scores(library, number, [Score("ImageReward-v1.0", score)])
        library.optimize()


def frames(gaps: list[float]) -> dict[str, float]:
    """Milliseconds between frames."""
    gaps = sorted(gaps)
    return {
        "frames": len(gaps),
        "median": round(statistics.median(gaps), 1),
        "p95": round(gaps[int(0.95 * len(gaps))], 1),
        "longest": round(gaps[-1], 1),
    }


def measure(page: Any, address: str) -> dict[str, Any]:
    begin = time.perf_counter()
    page.goto(address)
    page.click("#tabs button:has-text('ImageReward library')")
    page.wait_for_selector(".imagereward-library-grid figure img[src]")
    result: dict[str, Any] = {"first thumbnail, s": round(time.perf_counter() - begin, 2)}
    page.wait_for_timeout(3000)
    for name, step in PACES.items():
        result[name] = frames(page.evaluate(SCROLL, [3000, step]))
    result["elements"] = page.evaluate("document.querySelectorAll('.imagereward-library-grid figure').length")
    begin = time.perf_counter()
    page.evaluate("document.querySelector('.imagereward-library-grid').scrollTop = 1e9")
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('.imagereward-library-grid figure img')];"
        " return all.length && all.every((one) => one.naturalWidth); }"
    )
    result["at the end with all thumbnails, s"] = round(time.perf_counter() - begin, 2)
    begin = time.perf_counter()
    page.select_option(".imagereward-library-by", "ImageReward-v1.0")
    page.wait_for_function("document.querySelector('.imagereward-library-grid').scrollTop === 0")
    page.wait_for_selector(".imagereward-library-score:not(:empty)")
    result["ordered by a score, s"] = round(time.perf_counter() - begin, 2)
    return result


def run(folder: pathlib.Path, gradio: str, chromium: str | None) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as log,
        served("library_app.py", gradio, pathlib.Path(log), folder, answers="generated") as address,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.route("**/*", lambda route: route.continue_() if "127.0.0.1" in route.request.url else route.abort())
        scripts = sorted((ROOT / "javascript").glob("imagereward_library*.js"))
        page.add_init_script(HOST + "\n".join(path.read_text(encoding="utf-8") for path in scripts))
        try:
            return measure(page, address)
        finally:
            browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--folder", type=pathlib.Path, help="keep the pictures here, and use those that are there")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results" / "library_grid.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or pathlib.Path(temporary)).resolve()
        if not (folder / "imagereward-library.sqlite").is_file():
            fill(folder, args.rows)
        result: dict[str, Any] = {"rows": args.rows, "python": platform.python_version(), "processors": os.cpu_count()}
        for gradio in ("gradio3", "gradio4"):
            found = run(folder, gradio, os.environ.get("IMAGEREWARD_CHROMIUM"))
            result[gradio] = {**found, "load": round(os.getloadavg()[0], 1)}
            print(gradio, json.dumps(result[gradio], indent=2))
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for gradio in ("gradio3", "gradio4"):
        found = result[gradio]
        if max(found[name]["median"] for name in ("reading", "fast")) > 34 or found["elements"] > 100:
            sys.exit(f"{gradio}: a bar is not met")


if __name__ == "__main__":
    main()
