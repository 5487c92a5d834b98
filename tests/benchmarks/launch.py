"""Run a benchmark in processes of their own: python launch.py preference|models ARGUMENTS …"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import torch

from imagereward_cli.commands import bench as cli_bench

torch.set_num_threads(1)
parser = argparse.ArgumentParser()
cli_bench.add_arguments(parser)
sys.exit(cli_bench.run(parser.parse_args(sys.argv[1:])))
