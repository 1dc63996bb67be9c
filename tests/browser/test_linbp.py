"""The chapter's theory widget in the built page: its numbers are irlib's, and its sliders move them."""

import pytest
import torch

from irlib import Quadratic, load_images, load_model
from irlib.balance import class_gradients
from irlib.transfer import all_right
from irlib.widgets.linbp import STRENGTHS, LinearBackward, linear_gradients
from tests.browser.conftest import shown, slide


def test_linbps_numbers_are_irlibs_and_follow_the_sliders(open_page):
    models = {name: load_model(f"fmnist-{name}") for name in ("mlp", "vgg", "resnet14", "densenet22")}
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), list(models.values()))
    x = x + 1e-3 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * (x == 0)
    page, before = open_page("notebooks/linbp.html"), None
    for strength, passed, picture, name, layer in [(0, 0, 0, "mlp", 4), (3, 0, 0, "mlp", 4), (3, 5, 0, "vgg", 12), (3, 5, 2, "vgg", 12)]:
        slide(page, strength=strength, passed=passed, picture=picture)
        image, label = x[picture : picture + 1], y[picture : picture + 1]
        z, w = class_gradients(models[name], image)
        attack = LinearBackward(z[0], w[0], linear_gradients(models[name], image, f"network.{layer}")[0], int(label))
        q = Quadratic.at(models[name], image, label)
        beta = STRENGTHS[strength] / q.eigenvalues[0].item()
        plain, own = q.infinite_step(beta), attack.infinite_step(beta)
        assert shown(page, "at_beta") == pytest.approx((q.interaction(own) / q.interaction(plain)).item(), rel=5.01e-3)
        cosine = torch.nn.functional.cosine_similarity(attack.g, attack.linear, dim=0).item()
        assert shown(page, "cosine") == pytest.approx(cosine**2, rel=5.01e-3)
        now = shown(page, "at_beta")
        assert now != before
        before = now
