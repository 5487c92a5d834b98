"""Bootstrap, executed afresh at every load of the UI: finds our packages beside it and hands their scripts to the
host.
"""

import importlib
import importlib.util
import logging
import traceback
from pathlib import Path

from modules import scripts

ROOT = Path(__file__).resolve().parent.parent

try:
    spec = importlib.util.spec_from_file_location("imagereward_loader", ROOT / "imagereward_webui" / "loader.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    _, webui = loader.load_packages(ROOT)
    importlib.import_module(webui.__name__ + ".register").register_callbacks()
    script = importlib.import_module(webui.__name__ + ".script")
    extras = importlib.import_module(webui.__name__ + ".extras")
    # the host makes a script of every Script class it finds in this module's namespace
    ImageRewardAccordion, ImageRewardScript = script.ImageRewardAccordion, script.ImageRewardScript
    ScriptPostprocessingImageReward = extras.ScriptPostprocessingImageReward
except Exception as error:  # noqa: BLE001 - whatever is broken here, the host must start: say it where the user looks
    logging.getLogger("imagereward").error("ImageReward could not be loaded:\n%s", traceback.format_exc())
    PROBLEM = (
        f"ImageReward could not be loaded: {type(error).__name__}: {error}. "
        "Update or reinstall the extension and restart; the console has the details."
    )

    class ImageRewardProblem(scripts.Script):
        """Shows the reason where the accordion would be."""

        def title(self):
            return "ImageReward"

        def show(self, is_img2img):
            return scripts.AlwaysVisible

        def ui(self, is_img2img):
            import html

            import gradio as gr

            gr.HTML(f"<p class='imagereward-problem'>{html.escape(PROBLEM)}</p>")
            return []
