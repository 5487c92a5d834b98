"""Connects the extension to the host. Called from scripts/image_reward.py at every load of the UI: the host forgets all
callbacks on Reload UI, while this package stays in memory."""

from __future__ import annotations

from modules import script_callbacks

# All at once: A1111 takes our folder off sys.path after the load.
from . import (  # noqa: F401
    api,
    downloads,
    extras,
    extras_table,
    host,
    job,
    panel,
    plot_output,
    report,
    saving,
    script,
    session,
    settings,
    xyz,
)
from .core import RM
from .core import module as core_module
from .library_tab import api as library_api
from .library_tab import last_job
from .library_tab import tab as library_tab
from .refl_tab import api as refl_api
from .refl_tab import tab as refl_tab


def prepare() -> None:
    """The host has loaded all scripts, and makes its UI next."""
    host.before_results_are_sent(report.refresh)
    session.watch_scripts()
    saving.watch_saving()
    extras_table.watch_extras()
    xyz.add_axes()
    panel.find_problems()


def register_callbacks() -> None:
    """Register every callback once per UI load."""
    core_module("library.place").settle(host.library_place())
    script_callbacks.on_ui_settings(settings.add_options)
    script_callbacks.on_before_image_saved(script.before_image_saved)
    script_callbacks.on_image_saved(script.image_saved)
    script_callbacks.on_image_saved(last_job.image_saved)
    script_callbacks.on_image_grid(job.images_joined)
    script_callbacks.on_image_grid(plot_output.draw_scores)
    script_callbacks.on_before_ui(prepare)
    script_callbacks.on_ui_tabs(library_tab.tabs)
    script_callbacks.on_ui_tabs(refl_tab.tabs)
    script_callbacks.on_app_started(api.mount)
    script_callbacks.on_app_started(library_api.mount)
    script_callbacks.on_app_started(downloads.mount)
    script_callbacks.on_app_started(refl_api.mount)
    host.log_ready(RM.__version__)
