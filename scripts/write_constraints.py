"""Write constraints.txt: one exact pin for everything that weft with all its extras needs.

Run it with the oldest Python that the package supports; it installs nothing:

    python3.11 -m venv pins && pins/bin/python scripts/write_constraints.py && rm -r pins
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
HEADER = """\
# Exact versions of everything that weft with its extras (serve, tune, dev) needs, resolved together on Python 3.11.
# Written by scripts/write_constraints.py. Use: pip install -c constraints.txt -e .
# torch has builds for CPU and CUDA under one version: the pin takes the build that the package index offers, or the one
# that is installed already, and each build pins its own CUDA libraries. Where the index offers only the CUDA build and
# no GPU is there, add PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu to avoid gigabytes.
"""


def wanted() -> list[str]:
    """The requirements of the package and of all its extras, torch at its exact version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(item for extra in extras for item in extra)]
    return [TORCH, *(item for item in requirements if not item.startswith("torch"))]


def resolve(requirements: list[str]) -> dict[str, str]:
    """Normal name to public version of everything that pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *requirements], check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    names = {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"].split("+")[0] for item in found}
    return {name: version for name, version in names.items() if not re.match(r"nvidia-|cuda-|triton$", name)}


if __name__ == "__main__":
    pins = resolve(wanted())
    lines = [f"{name}=={pins[name]}\n" for name in sorted(pins)]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines))
