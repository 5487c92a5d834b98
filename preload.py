"""Read by the host before anything else: our command line flag."""

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    """Add --imagereward-models-path."""
    parser.add_argument(
        "--imagereward-models-path",
        type=str,
        default=None,
        help="folder with reward models (ImageReward.pt, .safetensors); default: models/ImageReward",
    )
