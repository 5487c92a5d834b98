"""Run by the host at start-up, in a process of its own: adds the libraries that scoring needs and that this host lacks.

Every known host brings all of them, so this usually does nothing. What is installed already is never changed, whatever
its
version: hosts pin their packages, and check them at each start. Weights are not downloaded here, but at the first use.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import tempfile

# name: the oldest version that is known to work (the oldest host's pin)
NEEDED = {
    "safetensors": "0.4.2",
    "tokenizers": "0.13.3",
    "huggingface_hub": "0.23.2",
    "filelock": "3.12",
    "tqdm": "4.65",
}


def installed() -> dict[str, str]:
    """Every installed distribution and its version, by normalised name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a half-removed package has none
            found.setdefault(name.lower().replace("_", "-"), distribution.version)
    return found


def missing(present: dict[str, str]) -> list[str]:
    """Requirements for what is not installed at all; an old version is the host's choice and stays."""
    return [f"{name}>={oldest}" for name, oldest in NEEDED.items() if name.replace("_", "-") not in present]


def main() -> None:
    """Install what is missing, holding everything else at its present version."""
    if "--skip-install" in shlex.split(os.environ.get("COMMANDLINE_ARGS", ""), posix=os.name != "nt"):
        return
    present = installed()
    wanted = missing(present)
    if not wanted:
        return
    import launch

    with tempfile.TemporaryDirectory() as folder:
        constraints = os.path.join(folder, "constraints.txt")
        with open(constraints, "w", encoding="utf-8") as file:
            file.writelines(f"{name}=={version}\n" for name, version in sorted(present.items()))
        quoted = " ".join(f'"{requirement}"' for requirement in wanted)
        try:
            launch.run_pip(f'install -c "{constraints}" {quoted}', "requirements of ImageReward")
        except RuntimeError as error:  # the host goes on; the accordion will say what is missing
            print(f"ImageReward: could not install {', '.join(wanted)}: {error}")


main()
