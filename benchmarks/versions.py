"""Notes the versions with which tests have just passed, for the list in docs/project/compatibility.md.

    python benchmarks/versions.py "make test-newest"

Sessions of nox that test other versions end with it. It imports nothing but the standard library, since it runs in their
environments."""

import json
import platform
import sys
from datetime import date
from importlib import metadata
from pathlib import Path

PATH = Path(__file__).parent / "results/versions.json"
PACKAGES = ("transformers", "torch", "numpy", "accelerate", "gguf", "lm_eval")


def main(command: str) -> None:
    """{command: {what was installed: the newest date}}"""
    runs = json.loads(PATH.read_text()) if PATH.exists() else {}
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    words = ", ".join(f"{name} {version}" for name, version in installed.items())
    runs.setdefault(command, {})[words] = date.today().isoformat()
    PATH.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
