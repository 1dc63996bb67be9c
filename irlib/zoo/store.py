"""Weights on disk: float16 safetensors beside one manifest; a file whose checksum differs is refused."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from irlib.zoo.architectures import ARCHITECTURES

WEIGHTS = Path(__file__).parent / "weights"
MANIFEST = "manifest.json"


def manifest(folder: Path = WEIGHTS) -> dict[str, dict]:
    """What is known of each weight file: sha256, accuracy, cost, command, seed, versions."""
    path = folder / MANIFEST
    return json.loads(path.read_text()) if path.exists() else {}


def halved(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with its floating tensors in float16. Raises ValueError for a value that float16 cannot hold."""
    small = {key: value.half().contiguous() if value.is_floating_point() else value for key, value in state.items()}
    for key, value in small.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{name}: {key} does not fit into float16")
    return small


def write(name: str, state: dict[str, Tensor], facts: dict, folder: Path = WEIGHTS) -> dict:
    """Store ``state`` (see `halved`) and enter ``facts`` under ``name``; returns the entry. Each file is replaced whole or not at all."""
    data = save(state)
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **facts}
    _replace(folder / f"{name}.safetensors", data)
    _replace(folder / MANIFEST, (json.dumps(dict(sorted((manifest(folder) | {name: entry}).items())), indent=2) + "\n").encode())
    return entry


def read(name: str, folder: Path = WEIGHTS) -> dict[str, Tensor]:
    """The float32 weights of ``name``. Raises OSError for a missing file and ValueError for one that is not the manifest's."""
    path = folder / f"{name}.safetensors"
    if name not in manifest(folder) or not path.exists():
        raise FileNotFoundError(f"no weights for {name!r} in {folder}: train them with `python -m irlib.zoo train {name}`")
    data = path.read_bytes()
    expected, found = manifest(folder)[name]["sha256"], hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path.name} is damaged: its sha256 is {found[:12]}…, the manifest says {expected[:12]}…. Restore the file (reinstall irlib, "
            f"or `git checkout` it) or train it again with `python -m irlib.zoo train {name}`"
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in load(data).items()}


def trained(name: str, folder: Path = WEIGHTS) -> torch.nn.Module:
    """The network ``name`` with its stored weights, in eval mode; `irlib.load_model` puts the normalisation before it."""
    network = ARCHITECTURES[name]()
    network.load_state_dict(read(name, folder))
    return network.eval()


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
