"""`python -m irlib.zoo train NAME`: train a network of the zoo. `python -m irlib.zoo images`: make the bundled evaluation images."""

import argparse
import json
from pathlib import Path

import torch

from irlib import _check, data
from irlib.zoo import store
from irlib.zoo.architectures import ARCHITECTURES


def _network(name: str) -> str:
    try:
        return name if name in ARCHITECTURES else _check.unknown_name("network", name, ARCHITECTURES)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number ≥ 1, got {text}")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m irlib.zoo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train_ = commands.add_parser("train", help="train a network and store its weights (resumes where it was stopped)")
    train_.add_argument("name", type=_network, help=f"one of {', '.join(ARCHITECTURES)}")
    train_.add_argument("--seed", type=int, default=0)
    train_.add_argument("--epochs", type=_count, help="default: the network's own, as in the manifest")
    train_.add_argument("--threads", type=_count, help="of the processor; sums depend on it in their last digits. Default: torch's")
    train_.add_argument("--data", type=Path, help="where torchvision finds or puts Fashion-MNIST; default: Debian's copy, else ~/.cache/irlib")
    train_.add_argument("--out", type=Path, default=store.WEIGHTS, help="folder of the weights and their manifest")
    images = commands.add_parser("images", help="write the bundled evaluation set: 1,000 test images, 100 a class")
    images.add_argument("--data", type=Path)
    args = parser.parse_args(argv)

    if args.command == "train" and args.threads:
        torch.set_num_threads(args.threads)
    from irlib.zoo import train  # torchvision's data sets are slow to import

    if args.command == "images":
        print(data.bundle(*train.fashion_mnist("test", args.data)))
        return
    print(json.dumps(train.train(args.name, args.out, args.data, args.seed, args.epochs), indent=2))


if __name__ == "__main__":
    main()
