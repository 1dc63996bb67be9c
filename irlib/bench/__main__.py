"""Time, memory and errors, measured on this machine: ratios within one run, medians, a table on the screen and, with --out, JSON."""

import argparse
import json
from pathlib import Path

import torch

from irlib.bench import attacks, interactions
from irlib.bench.clock import environment


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m irlib.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in (("attacks", attacks), ("interactions", interactions)):
        command = commands.add_parser(name, help=module.__doc__.split(". ")[0].lower(), description=module.__doc__)
        command.set_defaults(run=module.run)
        module.add_arguments(command)
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        command.add_argument("--out", type=Path, metavar="FILE.json", help="where to write the result besides printing it")
    args = parser.parse_args(argv)
    if small := [name for name, value in vars(args).items() if type(value) is int and value < 1]:
        parser.error(f"--{small[0]} must be at least 1, got {getattr(args, small[0])}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    if args.out and (args.out.is_dir() or not args.out.parent.is_dir()):
        parser.error(f"--out: {args.out} is not a file in a folder that exists")
    facts = {"settings": {key: value for key, value in vars(args).items() if key not in ("run", "out")}} | environment(args.device)
    text, found = args.run(args)
    print(", ".join(f"{key} {value}" for key, value in facts["settings"].items()), facts["device"], facts["date"], text, sep="\n")
    if args.out:
        partial = args.out.with_name(f"{args.out.name}.partial")
        partial.write_text(json.dumps(facts | found, indent=2, ensure_ascii=False) + "\n")
        partial.replace(args.out)


if __name__ == "__main__":
    main()
