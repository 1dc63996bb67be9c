"""Results on disk: compact JSON, each file replaced whole or not at all, the same bytes from the same run."""

import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parents[1] / "results"


def facts() -> dict[str, Any]:
    """What a result depends on besides its settings: processor, threads and versions. No date, so that a rerun gives the same file."""
    info = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {"device": cpu[1] if cpu else platform.machine(), "threads": torch.get_num_threads(), "versions": versions}


def commit() -> str | None:
    """The commit of the checkout that this code is run from, with "+" where tracked files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = lambda *args: subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + "+" * bool(git("status", "--porcelain", "--untracked-files=no"))


def rounded(values: Any, digits: int) -> Any:
    """The numbers of an array or tensor as nested lists, to so many significant digits; NaN and infinity are refused with ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a result holds NaN or infinity: look at the run before storing it")
    flat = [float(f"{value:.{digits}g}") for value in array.ravel()]
    flat = [int(value) if value == int(value) else value for value in flat]
    return np.array(flat, dtype=object).reshape(array.shape).tolist()


def write(path: Path, result: dict[str, Any]) -> None:
    """Store ``result`` at ``path``: one line for each of its entries, through a file beside it that takes its place when complete."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}" for key, value in result.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    partial.replace(path)


def read(path: Path, command: str | None = None) -> dict[str, Any]:
    """What `write` stored. Raises FileNotFoundError, with the ``command`` that makes it, by default the one of its folder's name."""
    if not path.exists():
        raise FileNotFoundError(f"no result {path.name} in {path.parent}: make it with `python -m irlib.replicate {command or path.parent.name}`")
    return json.loads(path.read_text(encoding="utf-8"))
