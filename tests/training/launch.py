"""Run a training in a process of its own: python launch.py CONFIG.yaml [KILL_AFTER_UPDATE]. Started alone or by a
launcher.
"""

import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import torch

from imagereward_train import TrainConfig, train

torch.set_num_threads(1)
kill_after = int(sys.argv[2]) if len(sys.argv) > 2 else None


def progress(stage, done, total, left):
    if stage == "updates" and done == kill_after:
        os.kill(os.getpid(), signal.SIGKILL)


train(TrainConfig.from_yaml(sys.argv[1]), progress=progress)
