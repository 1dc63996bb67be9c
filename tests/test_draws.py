"""An image's random numbers: its own, whatever else is in the batch."""

import pytest
import torch

from irlib.draws import Draws
from tests.conftest import make_images

KINDS = {"uniform": lambda d: d.uniform(4, 5), "normal": lambda d: d.normal(4, 5), "integers": lambda d: d.integers(1000, 4, 5)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_draws_the_same_in_any_batch_and_place(kind):
    draw, x = KINDS[kind], make_images(batch=4)
    together = draw(Draws(x, 3))
    assert together.shape == (4, 4, 5)
    assert draw(Draws(x.flip(0), 3)).flip(0).equal(together)
    assert draw(Draws(x[2:3], 3))[0].equal(together[2])
    assert draw(Draws(x.to(memory_format=torch.channels_last), 3)).equal(together)
    for i in range(4):
        assert not any(together[i].equal(together[j]) for j in range(i))
    assert not draw(Draws(x, 4)).equal(together)


def test_a_stream_goes_on():
    draws = Draws(make_images(), 0)
    assert not draws.uniform(6).equal(draws.uniform(6))


def test_a_float32_image_and_its_exact_copy_in_float64_draw_alike():
    x = make_images().float()
    assert Draws(x, 0).integers(10**6, 3).equal(Draws(x.double(), 0).integers(10**6, 3))
    assert Draws(x, 0).uniform(3).dtype == torch.float32


def test_images_draw_independently_and_from_the_distributions_named():
    draws = Draws(make_images(batch=400), 1)
    u, n, k = draws.uniform(50), draws.normal(50), draws.integers(4, 50)
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.002
    assert abs(n.mean()) < 0.03 and abs(n.var() - 1) < 0.04
    assert (k.flatten().bincount() / k.numel() - 0.25).abs().max() < 0.015
    for values in (u, n):
        means = values.mean(1)  # of independent images: spread as the mean of 50 draws is
        assert means.var() == pytest.approx(float(values.var() / 50), rel=0.25)
        assert torch.corrcoef(values).fill_diagonal_(0).abs().mean() == pytest.approx((2 / torch.pi / 50) ** 0.5, rel=0.05)
