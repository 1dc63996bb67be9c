"""Recompute what the book reads. Fig. 2 of the paper and the comparison of the methods go shard by shard: what is there is left alone, so that an
interrupted run goes on where it stopped. A chapter's own study is one file, and is made anew."""

import argparse
import time

import torch

from irlib.replicate import chapters, fig2, methods, presets, store


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m irlib.replicate", description=__doc__)
    parser.add_argument(
        "what", choices=["fig2", "methods", *chapters.STUDIES], help="the figure, the comparison, or the chapter that reads the study"
    )
    parser.add_argument("--only", metavar="SHARD", help="of fig2 one shard, such as fmnist-resnet14-p2; of methods those whose names start so")
    parser.add_argument("--again", action="store_true", help="of fig2 and methods recompute what is there")
    parser.add_argument("--preset", choices=presets.PRESETS, default="quick", help="of methods: quick on two cores, full and paper on a GPU")
    parser.add_argument("--images", metavar="DIR", help="of methods: a folder of images, one subfolder a class, instead of the preset's set")
    parser.add_argument("--device", default="cpu", help="of methods: cpu, cuda, …")
    parser.add_argument("--dry-run", action="store_true", help="of methods: only say what it costs")
    args = parser.parse_args(argv)
    if args.device == "cpu":
        torch.set_num_threads(1)  # sums in one order: the same bytes on every run
    if args.what in chapters.STUDIES:
        chapters.STUDIES[args.what]()
        return
    if args.what == "methods":
        names = [f"{source}-{method}" for source, method in presets.shards(presets.PRESETS[args.preset])]
        if not any(name.startswith(args.only or "") for name in names):
            parser.error(f"--only: no shard of {args.preset} starts with {args.only!r}; there are {', '.join(names)}")
        print(methods.cost(presets.PRESETS[args.preset]))
        if not args.dry_run:
            methods.run(args.preset, args.only, args.again, args.images, args.device)
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
