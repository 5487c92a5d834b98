"""Make the two interpreters that the browser tests need: `python tests/browser/make_envs.py [folder]` (default:
.venvs).
"""

import subprocess
import sys
import venv
from pathlib import Path

# what the hosts pin beside gradio; without these pip takes newer ones that these gradio versions can't run on
ENVIRONMENTS = {
    "gradio3": [
        "gradio==3.41.2",
        "fastapi==0.94.0",
        "pydantic<2",
        "httpx==0.24.1",
        "Pillow>=9.5,<11",
        "numpy==1.26.2",
        "huggingface_hub<1",
    ],
    "gradio4": [
        "gradio==4.40.0",
        "fastapi==0.104.1",
        "pydantic==2.8.2",
        "httpx==0.24.1",
        "Pillow>=9.5,<11",
        "numpy==1.26.2",
        "huggingface_hub==0.26.2",
    ],
}


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / ".venvs")
    for name, packages in ENVIRONMENTS.items():
        target = folder / name
        if not target.exists():
            venv.create(target, with_pip=True)
        python = target / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--prefer-binary", *packages], check=True)


if __name__ == "__main__":
    main()
