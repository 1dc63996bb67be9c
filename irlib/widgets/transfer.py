"""The sweep of the chapter on transfer: one attack on one source, and what seven other networks make of it."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irlib.data import FASHION_CLASSES
from irlib.replicate.transfer import EPS, STEPS, attacked
from irlib.transfer import logits
from irlib.widgets.sweep import Param, Sweep, Table, bars, grey_frames, grey_picture, heat, perturbation_frames, picture


def transfer(
    sources: Mapping[str, nn.Module], targets: Mapping[str, nn.Module], x: Tensor, y: Tensor, outcomes: Tensor, steps: Sequence[int] = STEPS
) -> Sweep:
    """Sliders for ε (the stops `EPS`), steps, source and image: the perturbation, what each target sees in it, and its success over many images.

    Args:
        sources, targets: networks in eval mode, by name.
        x: images (k, 1, height, width) to show.
        y: their labels.
        outcomes: bool (eps, steps, sources, targets, images) of many images, `irlib.replicate.transfer.grid_outcomes` at the same stops.
    """
    names = list(sources)
    expected = (len(EPS), len(steps), len(sources), len(targets))
    if tuple(outcomes.shape[:4]) != expected:
        raise ValueError(f"outcomes must start with shape {expected} for {len(EPS)} radii and these steps and networks, got {tuple(outcomes.shape)}")
    rates = 100 * outcomes.double().mean(-1)

    def compute(eps: list[float], steps: list[int], source: list[int], image: list[int]) -> dict[str, Table]:
        shown = transfer_tables([sources[names[k]] for k in source], list(targets.values()), x[image], y[image], [e / 255 for e in eps], steps)
        return shown | {
            "rates": Table(rates.numpy(), ("eps", "steps", "source")),
            "mean": Table(rates.mean(-1).numpy(), ("eps", "steps", "source")),
        }

    labels = [name.removeprefix("fmnist-") for name in targets]
    return Sweep(
        "transfer",
        "One attack, seven networks that it never saw",
        [
            Param("eps", "radius ε", [round(255 * e) for e in EPS], lambda e: f"{e:g}/255"),
            Param("steps", "steps", steps, lambda m: "1 (FGSM)" if m == 1 else f"{m:g}"),
            Param("source", "source", range(len(names)), lambda k: names[int(k)].removeprefix("fmnist-")),
            Param("image", "image", range(len(x)), lambda i: FASHION_CLASSES[y[int(i)]]),
        ],
        compute,
        [
            grey_picture("image", "original"),
            picture("perturbation δ", "delta"),
            grey_picture("image + δ", "adversarial"),
            heat("what each target sees: probabilities, %", "probabilities", labels, FASHION_CLASSES),
            bars(
                f"success over {outcomes.shape[-1]} images, % fooled", "rates", [label.replace("inception", "inc") for label in labels], token="pgd"
            ),
        ],
        {
            "loss of the source, before": ("clean", ""),
            "loss of the source": ("loss", ""),
            "targets fooled by this image": ("fooled", f" of {len(targets)}"),
            "mean success, all images": ("mean", " %"),
        },
        start={"eps": 16, "steps": 10, "source": 0, "image": 0},
        caption="{source} is attacked within {eps}, steps: {steps}. Its own loss on the {image} is {loss}. The same picture fools {fooled} other "
        "networks; over all images, such an attack fools a target in {mean} of cases.",
    )


def transfer_tables(
    sources: Sequence[nn.Module], targets: Sequence[nn.Module], x: Tensor, y: Tensor, eps: Sequence[float], steps: Sequence[int]
) -> dict[str, Table]:
    """The tables of the shown images over ε × steps × source × image; ε in pixel units.

    loss is the source's cross-entropy at the adversarial image, clean that at the image itself; probabilities are the targets', in percent, uint8
    (target, class); fooled counts the targets whose largest is not the label's.
    """
    over = ("eps", "steps", "source", "image")
    delta = torch.stack([torch.stack([torch.stack([attacked(s, x, y, e, m) for s in sources]) for m in steps]) for e in eps])
    grid, adversarial = delta.shape[:4], x + delta
    seen = torch.stack([logits(target, adversarial.flatten(0, 3)).double().softmax(1) for target in targets], 1).view(*grid, len(targets), -1)
    loss = torch.stack([_losses(s, adversarial[:, :, k].flatten(0, 2), y).view(*grid[:2], len(x)) for k, s in enumerate(sources)], 2)
    return {
        "original": Table(grey_frames(x), ("image",)),
        "adversarial": Table(grey_frames(adversarial), over),
        **perturbation_frames("delta", delta[..., 0, :, :].numpy(), over),
        "clean": Table(torch.stack([_losses(s, x, y) for s in sources]).numpy(), ("source", "image")),
        "loss": Table(loss.numpy(), over),
        "probabilities": Table((100 * seen).round().to(torch.uint8).numpy(), over),
        "fooled": Table((seen.argmax(-1) != y[:, None]).sum(-1).numpy(), over),
    }


def _losses(model: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    """float64: the cross-entropy of images whose labels are y, over and over."""
    return F.cross_entropy(logits(model, images).double(), y.repeat(len(images) // len(y)), reduction="none")
