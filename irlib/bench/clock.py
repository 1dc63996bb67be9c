"""Times in turns, peaks of memory, and the machine that they are of."""

import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision

import irlib

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux


def compared(ours: Callable[[], Any], other: Callable[[], Any], repeats: int, scale: float = 1, cuda: bool = False) -> dict[str, float]:
    """Time of ``ours``, called before, over ``scale`` times the other's: they take turns, and the other's is the mean of those before and after."""

    def seconds(call: Callable[[], Any]) -> float:
        wait = torch.cuda.synchronize if cuda else lambda: None
        wait()
        start = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - start

    seconds(other)  # warms up
    turns = [seconds(call) for call in (other, *(ours, other) * repeats)]
    ratios = [2 * mine / (before + after) / scale for before, mine, after in zip(turns[:-2:2], turns[1::2], turns[2::2], strict=True)]
    found = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios), "seconds": statistics.median(turns[1::2])}
    return {key: rounded(value) for key, value in found.items()}


def peak_memory(call: Callable[[], Any], cuda: bool = False) -> int | None:
    """Bytes that ``call`` occupied at most beyond what was occupied before; None where the system does not say (Linux and CUDA do)."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    if not CLEAR.exists():
        return None
    CLEAR.write_text("5")  # the peak becomes what is resident now
    before = _resident()
    call()
    return _resident() - before


def _resident() -> int:
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())[1])


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


def environment(device: str) -> dict[str, Any]:
    """The device by its name, and the versions that a time depends on."""
    cpu = re.search(r"model name\s*: (.*)", info.read_text()) if (info := Path("/proc/cpuinfo")).exists() else None
    name = torch.cuda.get_device_name() if device == "cuda" else cpu[1] if cpu else platform.processor() or platform.machine()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__, "irlib": irlib.__version__}
    return {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "device": name, "threads": torch.get_num_threads(), "versions": versions}
