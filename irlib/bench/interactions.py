"""Interactions: time, memory and errors of what measures them. Times are ratios in one run, taken in turns; errors are at equal evaluations."""

import argparse
from typing import Any

import torchvision

from irlib import list_models
from irlib.bench import curvature, errors, speed

SECTIONS = {
    "total": speed.total,
    "loss": speed.loss,
    "memory": speed.memory,
    "estimators": errors.estimators,
    "samplers": errors.samplers,
    "local": curvature.predictors,
    "precision": curvature.precisions,
}
PARTS = ["alexnet", "vgg", "resnet14", "resnet26", "densenet22", "densenet40", "dpn", "seresnet", "inception3", "inception4",
         "inception-resnet", "mlp"]  # fmt: skip


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME", help=f"of {', '.join(SECTIONS)}")
    known = [name for name in list_models() if name.startswith("fmnist")] + torchvision.models.list_models(torchvision.models)
    timed = ["fmnist-resnet14", "resnet18"]
    command.add_argument("--networks", nargs="+", choices=known, default=timed, metavar="NAME", help="timed; the book's or torchvision's")
    estimated = [f"fmnist-{part}" for part in PARTS]
    command.add_argument("--estimated", nargs="+", choices=list_models(), default=estimated, metavar="NAME", help="errors; default: the small cast")
    command.add_argument("--images", type=int, default=20, metavar="N", help="images for the errors; default 20")
    command.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of a timing; default 5")


def run(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """What is printed, and what is written."""
    tables = {name: SECTIONS[name](args) for name in args.sections}
    return "\n\n".join(table.plain() for table in tables.values()), {"tables": {name: table.stored() for name, table in tables.items()}}
