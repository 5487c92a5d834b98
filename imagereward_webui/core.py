"""The model package, by the name it was loaded under.

`scripts/image_reward.py` loads the core from beside this package. Should another copy of it already be in the
process (a second clone, a pip install), ours gets an alias, and this is the one place that knows it.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

CORE_NAME: str = getattr(sys.modules[__package__], "CORE_NAME", "imagereward_core")

RM = importlib.import_module(CORE_NAME)
errors = importlib.import_module(CORE_NAME + ".errors")
logger = importlib.import_module(CORE_NAME + ".log").logger
metadata = importlib.import_module(CORE_NAME + ".metadata")
prompt_files = importlib.import_module(CORE_NAME + ".prompt_files")
runs = importlib.import_module(CORE_NAME + ".runs")
plain_prompt = importlib.import_module(CORE_NAME + ".prompts").plain_prompt

if TYPE_CHECKING:
    from imagereward_core.errors import ImageRewardError
else:
    ImageRewardError = errors.ImageRewardError
