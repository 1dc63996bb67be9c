"""The chapter's theory widget in the built page: its numbers are irlib's, and its sliders move them."""

import pytest

from irlib import load_images, load_model
from irlib.balance import class_gradients, class_gram, competitors
from irlib.transfer import all_right
from irlib.widgets.ia import BETAS, WEAKENED, level_curvature, weakened
from tests.browser.conftest import shown, slide


def test_the_networks_numbers_are_irlibs_and_follow_the_sliders(open_page):
    model = load_model("fmnist-resnet14")
    others = [load_model(f"fmnist-{name}") for name in ("resnet14-ia", "densenet22", "vgg", "mlp")]
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), [model, *others])
    page, before = open_page("notebooks/ia.html"), None
    for softplus, weaken, picture in [(2, 2, 0), (2, 4, 0), (0, 4, 0), (0, 4, 3)]:
        slide(page, softplus=softplus, weaken=weaken, picture=picture)
        image, label = x[picture : picture + 1], int(y[picture])
        z, w = class_gradients(weakened(model, BETAS[softplus], WEAKENED[weaken]), image)
        p = z[0].softmax(0)
        now = shown(page, "curvature")
        assert now == pytest.approx(level_curvature(class_gram(w[0]), p, label).item(), rel=5.01e-3)
        assert shown(page, "rivals") == pytest.approx(competitors(p, label).item(), rel=5.01e-3)
        assert now != before
        before = now
