"""What a cloud of averaged settings says: Pearson's r between mean interaction and mean transfer utility, with an interval over images.

Each setting of an attack gives one point, the averages over images. The images are the sample: they were drawn, and other ones could have been. The
settings were chosen; a bootstrap over them would ask what other settings we might have liked to choose, and has no answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from irlib.transfer import Interval

ARRIVED = 0.5  # a setting counts if at least so many of the images reach τ under it


@dataclass(frozen=True)
class Settings:
    """Settings of one attack on the same images, float (settings, images) each, and whether each δ reached ‖δ‖₂ = τ.

    Settings under which fewer than ``share`` of the images reach τ are left out; the images used are those that reach it under all of the
    others. So every point is an average over the same images, and the kept ones over δ of the same length.
    """

    interaction: np.ndarray
    utility: np.ndarray
    arrived: np.ndarray
    share: float = ARRIVED

    @property
    def kept(self) -> np.ndarray:
        """bool (settings,): not left out."""
        return self.arrived.mean(1) >= self.share

    @property
    def used(self) -> np.ndarray:
        """bool (images,): reach τ under all kept settings."""
        return self.arrived[self.kept].all(0)

    def points(self) -> np.ndarray:
        """(settings, 2): mean interaction and mean utility of every setting, the left out included, over the images used."""
        return np.stack([self.interaction[:, self.used].mean(1), self.utility[:, self.used].mean(1)], 1)

    def correlation(self, all_settings: bool = False, resamples: int = 2000, seed: int = 0) -> Interval:
        """Pearson's r over the kept settings, or over all, and its 95 % percentile interval over images, drawn anew with all their settings.

        NaN where fewer than three settings or two images are left.
        """
        which = np.ones_like(self.kept) if all_settings else self.kept
        if which.sum() < 3 or self.used.sum() < 2:
            return Interval(np.nan, np.nan, np.nan)
        x, y = (values[which][:, self.used] for values in (self.interaction, self.utility))
        images = x.shape[1]
        drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples) / images
        low, high = np.quantile(pearson(drawn @ x.T, drawn @ y.T), [0.025, 0.975])
        return Interval(float(pearson(x.mean(1), y.mean(1))), float(low), float(high))


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r along the last axis."""
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def regression(x: np.ndarray, y: np.ndarray, at: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The least squares line of y on x at the abscissas ``at``, and half the width of its confidence band there."""
    fit = stats.linregress(x, y)
    residual = y - fit.intercept - fit.slope * x
    spread = ((x - x.mean()) ** 2).sum()
    error = np.sqrt((residual**2).sum() / (len(x) - 2) * (1 / len(x) + (at - x.mean()) ** 2 / spread))
    return fit.intercept + fit.slope * at, stats.t.ppf((1 + level) / 2, len(x) - 2) * error


def settings(shard: Mapping[str, Any], tau: float, targets: Sequence[str]) -> Settings:
    """A stored shard of `irlib.replicate.fig2` at one τ, the utility averaged over ``targets``. Raises ValueError for a τ or target it lacks."""
    for name, wanted, known in (("τ", [tau], shard["taus"]), ("target", targets, shard["targets"])):
        if missing := [value for value in wanted if value not in known]:
            raise ValueError(f"the run from {shard['source']} has no {name} {missing[0]}; it has {', '.join(map(str, known))}")
    t = shard["taus"].index(tau)
    rows = [shard["targets"].index(name) for name in targets]
    utility = np.array(shard["utility"])[rows, :, t].mean(0)
    return Settings(np.array(shard["interaction"])[:, t], utility, np.array(shard["step"])[:, t] >= 0)
