"""Installs the stand-in under the names that SGLang imports: python install.py, with the Python that is to have them."""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("sgl_kernel", "torchvision", "torchaudio")

for name in NAMES:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{name}.py").write_text((HERE / "stand_in.py").read_text())
        (Path(folder) / "pyproject.toml").write_text((HERE / "pyproject.toml").read_text().replace("NAME", name))
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", folder]
        subprocess.run(command, check=True)
