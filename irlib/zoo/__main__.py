"""The networks of the book: list them, verify the stored ones, plan and repeat their training.

`list` prints the whole cast with its roles. `verify` recomputes, from the bundled images, what the manifest says of each network. `plan` times
this machine and prints what training would take. `train` trains a network and stores it (it resumes where it was stopped). `images` writes the
bundled images.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from irlib import _check, data
from irlib.zoo import cast, store
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
    parser = argparse.ArgumentParser(prog="python -m irlib.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print every network, its role, accuracy and cost")
    verify = commands.add_parser("verify", help="check weights against the manifest (exit status 1 if one differs)")
    verify.add_argument("names", type=_network, nargs="*", metavar="name", help="default: all")
    plan = commands.add_parser("plan", help="measure this machine and print the hours that training takes")
    train_ = commands.add_parser("train", help="train a network and store its weights")
    train_.add_argument("name", type=_network, help=f"one of {', '.join(ARCHITECTURES)}")
    train_.add_argument("--seed", type=int, default=0)
    train_.add_argument("--epochs", type=_count, help="default: the network's own, as in the manifest")
    train_.add_argument("--out", type=Path, default=store.WEIGHTS, help="folder of the weights and their manifest")
    for command in (train_, plan):
        command.add_argument("--threads", type=_count, help="of the processor; sums depend on it in their last digits. Default: torch's")
    images = commands.add_parser("images", help="write the bundled evaluation set: 1,000 test images, 100 a class")
    for command in (train_, images):
        command.add_argument("--data", type=Path, help="where torchvision finds or puts Fashion-MNIST; default: Debian's copy, else ~/.cache/irlib")
    args = parser.parse_args(argv)

    if args.command == "list":
        print(cast.plain(cast.FASHION_HEADINGS, cast.fashion_rows()), cast.plain(cast.IMAGENET_HEADINGS, cast.imagenet_rows()), sep="\n\n")
        return
    if getattr(args, "threads", None):
        torch.set_num_threads(args.threads)
    from irlib.zoo import measure, train  # torchvision's data sets are slow to import

    if args.command == "verify":
        sys.exit(not measure.verify(args.names or sorted(store.manifest())))
    elif args.command == "plan":
        measure.plan()
    elif args.command == "images":
        print(data.bundle(*train.fashion_mnist("test", args.data)))
    else:
        print(json.dumps(train.train(args.name, args.out, args.data, args.seed, args.epochs), indent=2))


if __name__ == "__main__":
    main()
