"""Recompute what the book reads. Fig. 2 of the paper goes shard by shard: what is there is left alone, so an interrupted run goes on where it
stopped. A chapter's own study is one file, and is made anew."""

import argparse
import time

import torch

from irlib.replicate import chapters, fig2, store


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m irlib.replicate", description=__doc__)
    parser.add_argument("what", choices=["fig2", *chapters.STUDIES], help="the figure, or the chapter that reads the study")
    parser.add_argument("--only", metavar="SHARD", help="of fig2 one shard, such as fmnist-resnet14-p2")
    parser.add_argument("--again", action="store_true", help="of fig2 recompute what is there")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # sums in one order: the same bytes on every run
    if args.what in chapters.STUDIES:
        chapters.STUDIES[args.what]()
        return
    wanted = {f"{source}-{part}": (source, part) for source, part in fig2.shards()}
    if args.only and args.only not in wanted:
        parser.error(f"--only: no shard {args.only!r}; there are {', '.join(wanted)}")
    print(fig2.cost())
    for name, which in wanted.items():
        path = fig2.FOLDER / f"{name}.json"
        if args.only not in (None, name) or (path.exists() and not args.again):
            continue
        start = time.perf_counter()
        store.write(path, fig2.shard(*which))
        print(f"{name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
