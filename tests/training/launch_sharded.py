"""Runs of the same training under DDP, FSDP1 and FSDP2, one after the other in the same two processes:
launch_sharded.py CONFIG.yaml
"""

import dataclasses
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import torch

from imagereward_train import TrainConfig, train
from imagereward_train.trainer import Trainer

torch.set_num_threads(1)
config = TrainConfig.from_yaml(sys.argv[1])
folder = pathlib.Path(config.savepath)
LAYERS = {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block,Layer"}


def run(name, precision):
    """Train into `folder`/`name` and note what the layers saw."""
    trainer = Trainer(dataclasses.replace(config, savepath=str(folder / name), precision=precision))
    seen = {"kind": type(trainer.model).__name__, "process": trainer.accelerator.process_index}

    def see(place):
        def hook(module, inputs, output):
            seen[place] = sorted({str(value.dtype) for value in (output, module.weight)})
            seen[f"{place} trains"] = module.weight.requires_grad

        return hook

    trainer.net.mlp.layers[0].register_forward_hook(see("head"))
    trainer.net.blip.visual_encoder.blocks[0].mlp.fc1.register_forward_hook(see("frozen"))
    trainer.net.blip.visual_encoder.blocks[1].mlp.fc1.register_forward_hook(see("trained"))
    trainer.fit()
    if seen["process"] == 0:
        (folder / f"{name}.json").write_text(json.dumps(seen))


run("ddp-bf16", "bf16")
os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="1", **LAYERS)
run("fsdp1-bf16", "bf16")
os.environ.update(FSDP_VERSION="2")
run("fsdp2-bf16", "bf16")
if hasattr(torch.amp, "GradScaler"):
    run("fsdp2-fp16", "fp16")
for _ in range(config.train_iters):  # stopped after every update and resumed
    train(
        dataclasses.replace(config, savepath=str(folder / "broken"), precision="bf16", resume=True),
        should_stop=lambda: True,
    )
