"""What the extension's parts on this page need of a host and of the core, where the interpreter has neither torch nor a
host. To be imported before them.
"""

import sys
import types
from pathlib import Path

ABSENT = {"ImageReward-v1.0", "PickScore", "MPS"}  # scorers whose weights are to be fetched

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
weights = types.ModuleType("imagereward_core.weights")  # the real one needs torch
weights.missing = lambda info, models_dir: info.sources if info.name in ABSENT else []
sys.modules["imagereward_core.weights"] = weights
sys.modules["modules"] = types.ModuleType("modules")
shared = sys.modules["modules.shared"] = types.ModuleType("modules.shared")
shared.cmd_opts, shared.opts = types.SimpleNamespace(), types.SimpleNamespace(data={})
sys.modules["modules.ui_common"] = types.ModuleType("modules.ui_common")
