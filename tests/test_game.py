"""v(S) against loops over images, coalitions and pixels; chunking; the memory bound; bad input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from irlib.game import AttackGame, TableGame, grid_cells
from irlib.interactions import interaction_matrix
from tests.conftest import assert_untouched, make_images, make_network, snapshot


def slow_value(network, x, delta, y, coalition, grid, utility):
    """One image, one coalition, pixel by pixel, from the definition."""
    _, height, width = x.shape
    kept = torch.zeros_like(delta)
    for r in range(height):
        for c in range(width):
            if coalition[int(r * grid / height) * grid + int(c * grid / width)]:
                kept[:, r, c] = delta[:, r, c]

    def u(image):
        z = network(image[None])[0]
        if utility == "ce":
            return -torch.log(torch.exp(z[y]) / torch.exp(z).sum())
        full = network((x + delta)[None])[0]
        rival = max((k for k in range(len(z)) if k != y), key=lambda k: full[k])
        return z[rival] - z[y]

    return (u(x + kept) - u(x)).item()


@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize(("size", "grid"), [(6, 2), (7, 3), (7, 5)])
def test_values_are_the_definition(utility, size, grid):
    network, x = make_network(channels=2, size=size), make_images(channels=2, size=size)
    y, generator = torch.tensor([0, 1, 4]), torch.Generator().manual_seed(1)
    delta = torch.randn(x.shape, generator=generator, dtype=torch.float64) * 0.3
    game = AttackGame(network, x, delta, y, grid=grid, utility=utility)
    coalitions = torch.rand(3, 7, game.n, generator=generator) < 0.5
    values = game(coalitions)
    assert values.dtype == torch.float64 and values.shape == (3, 7)
    expected = [[slow_value(network, x[i], delta[i], int(y[i]), c, grid, utility) for c in coalitions[i]] for i in range(3)]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    shared = game(coalitions[0])
    torch.testing.assert_close(shared[0], values[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(
        shared[2], AttackGame(network, x[2:], delta[2:], y[2:], grid=grid, utility=utility)(coalitions[0])[0], rtol=0, atol=1e-14
    )


def test_the_rival_is_the_second_class_of_the_full_perturbation_even_when_another_leads_on_the_clean_image(network, x, y):
    delta = 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    clean, full = (network(v).scatter(1, y[:, None], -torch.inf).argmax(1) for v in (x, x + delta))
    assert (clean != full).any()  # else this test could not tell the two apart
    v = AttackGame(network, x, delta, y, grid=2, utility="margin")(torch.ones(1, 4, dtype=torch.bool))[:, 0]
    gap = lambda z: z.gather(1, full[:, None])[:, 0] - z.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(v, gap(network(x + delta)) - gap(network(x)))


def test_the_empty_coalition_is_worth_nothing_and_the_full_one_the_loss_increase(network, x, y):
    delta = 0.1 * torch.ones_like(x)
    game = AttackGame(network, x, delta, y, grid=3)
    v = game(torch.stack([torch.zeros(9, dtype=torch.bool), torch.ones(9, dtype=torch.bool)]))
    ce = lambda images: F.cross_entropy(network(images), y, reduction="none")
    torch.testing.assert_close(v[:, 0], torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(v[:, 1], ce(x + delta) - ce(x))
    assert game(torch.zeros(0, 9, dtype=torch.bool)).shape == (3, 0)


def test_chunks_do_not_change_values_and_keep_their_size(network, x, y):
    sizes = []
    network.register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    coalitions = torch.rand(11, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    whole = AttackGame(network, x, 0.1 * x, y, grid=2)(coalitions)
    sizes.clear()
    cut = AttackGame(network, x, 0.1 * x, y, grid=2, chunk=4)(coalitions)
    assert max(sizes) == 4 and sum(sizes) == 33 + 3  # the coalitions, and v(∅), whose first image is the one that measures memory
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-14)


def test_the_default_chunk_keeps_to_the_memory_bound(monkeypatch):
    network, x = make_network(size=24), make_images(batch=8, size=24)
    alive = peak = 0

    class Counted(torch.overrides.TorchFunctionMode):  # every tensor made in the pass, freed when Python frees it
        def __torch_function__(self, func, types, args=(), kwargs=None):
            nonlocal alive, peak
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and func in {F.conv2d, F.batch_norm, F.relu, F.max_pool2d, torch.nn.functional.linear}:
                import weakref

                alive += out.nbytes
                peak = max(peak, alive)
                weakref.finalize(out, lambda n=out.nbytes: release(n))
            return out

    def release(n):
        nonlocal alive
        alive -= n

    bound = 300_000
    monkeypatch.setattr("irlib.memory.CPU_BYTES", bound)
    game = AttackGame(network, x, 0.1 * x, torch.zeros(8, dtype=torch.int64), grid=4)
    assert 1 < game.chunk < 8 * 20
    with Counted():
        game(torch.rand(20, 16) < 0.5)
    assert 0 < peak <= bound


def test_float32_networks_give_float64_values_that_agree_with_double_precision(x, y):
    double = make_network()
    single = make_network().float()
    coalitions = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    v = AttackGame(single, x.float(), 0.1 * x.float(), y, grid=3)(coalitions)
    assert v.dtype == torch.float64
    torch.testing.assert_close(v, AttackGame(double, x, 0.1 * x, y, grid=3)(coalitions), rtol=0, atol=5e-6)


def test_the_model_stays_as_it_was_and_the_values_carry_no_graph(network, x, y):
    before = snapshot(network)
    v = AttackGame(network, x, 0.1 * x, y, grid=2)(torch.ones(1, 4, dtype=torch.bool))
    assert not v.requires_grad
    assert_untouched(network, before)


def test_grid_cells_differ_by_one_pixel_at_most():
    for size, grid in [(28, 16), (28, 7), (224, 16), (5, 3), (9, 9)]:
        cells = grid_cells(size, size + 1, grid)
        counts = cells.unique(return_counts=True)[1]
        assert len(counts) == grid * grid
        rows = cells[:, 0].div(grid, rounding_mode="floor").unique(return_counts=True)[1]
        assert rows.max() - rows.min() <= 1
    assert grid_cells(5, 5, 3)[:, 0].tolist() == [0, 0, 3, 3, 6]  # ⌊r·3/5⌋ for r = 0 … 4


def test_bad_input_is_refused_by_name(network, x, y):
    ok = dict(model=network, x=x, delta=0.1 * x, y=y, grid=2)
    make = lambda **change: AttackGame(**(ok | change))
    nan = x.clone()
    nan[0, 0, 0, 0] = torch.nan
    for change, error, words in [
        (dict(x=x + 0.5), ValueError, "normalisation belongs inside the model"),
        (dict(x=x - 0.2), ValueError, r"\[0, 1\]"),
        (dict(x=nan), ValueError, "NaN"),
        (dict(x=x[0]), ValueError, "shape"),
        (dict(x=x.float(), delta=x.float()), TypeError, "float32"),
        (dict(x=(x * 255).byte(), delta=x), TypeError, "uint8"),
        (dict(delta=x[:2]), ValueError, "delta"),
        (dict(delta=nan), ValueError, "delta"),
        (dict(y=y + 5), ValueError, "labels"),
        (dict(y=-1 - y), ValueError, "labels"),
        (dict(y=y[:2]), ValueError, "y must have shape"),
        (dict(y=y.float()), TypeError, "int64"),
        (dict(y=y.to("meta")), ValueError, "y is on meta but the images are on cpu"),
        (dict(model=make_network().to("meta")), ValueError, "x is on cpu but the model is on meta"),
        (dict(grid=7), ValueError, "larger than the 6×6 image"),
        (dict(grid=0), ValueError, "grid"),
        (dict(utility="cr"), ValueError, "did you mean 'ce'"),
        (dict(chunk=0), ValueError, "chunk"),
        (dict(x=x.half(), delta=x.half(), model=make_network().half()), TypeError, "float16 on the CPU: use float32"),
        (dict(x=x.bfloat16(), delta=x.bfloat16(), model=make_network().bfloat16()), TypeError, "bfloat16 on the CPU: use float32"),
        (dict(precision=torch.float32), ValueError, "precision must be torch.bfloat16, torch.float16, or None.*got torch.float32"),
        (dict(precision="bf16"), ValueError, "precision must be.*got bf16"),
        (dict(model=lambda images: images), TypeError, "nn.Module"),
        (dict(model=nn.Sequential(nn.Conv2d(1, 3, 3)).double().eval()), ValueError, "logits"),
    ]:
        with pytest.raises(error, match=words):
            make(**change)
    make(x=x.clamp(0, 1) + 0.5e-4)  # rounding beyond the edge is tolerated
    network[1].train()
    with pytest.raises(ValueError, match="module '1'.*model.eval()"):
        make()


def test_coalitions_of_the_wrong_kind_are_refused(network, x, y):
    game = AttackGame(network, x, 0.1 * x, y, grid=2)
    for coalitions in (torch.ones(3, 5, dtype=torch.bool), torch.ones(2, 3, 4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"\(k, 4\) or \(3, k, 4\)"):
            game(coalitions)
    with pytest.raises(TypeError, match="bool"):
        game(torch.ones(3, 4))


def game_of_one(network, grid=3):
    x = make_images(batch=1)
    return AttackGame(network, x, torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.tensor([1]), grid=grid)


@pytest.mark.parametrize("kind", [bool, np.int64, np.uint8, float])
def test_numpy_coalitions_of_one_image_give_numpy_values(kind, network):
    game, coalitions = game_of_one(network), np.random.default_rng(0).random((20, 9)) < 0.5
    values = game(coalitions.astype(kind))
    assert isinstance(values, np.ndarray) and values.dtype == np.float64 and values.shape == (20,)
    np.testing.assert_array_equal(values, game(torch.tensor(coalitions.tolist()))[0].numpy())
    assert len(set(values)) > 15
    assert game(coalitions[:0]).shape == (0,)


def test_numpy_coalitions_of_several_images_or_of_other_units_are_refused(network, x, y):
    with pytest.raises(ValueError, match=r"one image, this one has 3: make a game of each, x\[i : i \+ 1\]"):
        AttackGame(network, x, 0.1 * x, y, grid=3)(np.ones((4, 9), dtype=bool))
    for shape in ((4, 8), (8,), (1, 4, 8)):
        with pytest.raises(ValueError, match=r"\(k, 9\)"):
            game_of_one(network)(np.ones(shape, dtype=bool))
    assert game_of_one(network)(np.ones(9, dtype=bool)).shape == (1,)


def test_shapiq_takes_the_game_as_it_is(network):
    shapiq = pytest.importorskip("shapiq")
    game = game_of_one(network)
    expected = interaction_matrix(game)[0].numpy()
    assert np.abs(expected).max() > 0.05
    approximator = shapiq.SHAPIQ(n=9, max_order=2, index="SII", random_state=0)
    for pairs in (shapiq.ExactComputer(n_players=9, game=game)("SII", order=2), approximator.approximate(budget=2**9, game=game)):
        found = pairs.get_n_order_values(2)
        np.testing.assert_allclose(found - np.diag(np.diag(found)), expected, rtol=0, atol=1e-10)


class Fragile(nn.Module):
    """A network with logits that are not finite where the pixel (3, 4) has the value ``bad``."""

    def __init__(self, network, bad, breaks):
        super().__init__()
        self.network, self.bad, self.breaks = network, bad, breaks

    def forward(self, images):
        z = self.network(images)
        self.breaks(z, images[:, 0, 3, 4] == self.bad)
        return z


@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_utility_that_is_not_finite_is_named_with_its_image_and_coalition(chunk, value, utility, network, x):
    y = torch.tensor([0, 0, 0])

    def breaks(z, where):
        z[where, 0] = torch.nan if value == "nan" else -torch.inf

    game = AttackGame(Fragile(network, (1.1 * x)[1, 0, 3, 4], breaks).eval(), x, 0.1 * x, y, grid=3, utility=utility, chunk=chunk)
    unbroken = AttackGame(network, x, 0.1 * x, y, grid=3, utility=utility)
    coalitions = torch.zeros(3, 4, 9, dtype=torch.bool)
    coalitions[0, :, 5] = coalitions[2, :, 5] = True  # the pixel's cell; of image 1 alone the value is the bad one
    coalitions[1, :, 1] = True
    torch.testing.assert_close(game(coalitions), unbroken(coalitions), rtol=0, atol=1e-14)
    coalitions[1, 2, [5, 8]] = True
    with pytest.raises(ValueError, match=rf"utility '{utility}' is {value} for image 1 and the coalition of 3 of 9 cells \[1, 5, 8\]: .*not finite"):
        game(coalitions)
    shared = coalitions[1]
    with pytest.raises(ValueError, match=r"for image 1 and the coalition of 3 of 9 cells \[1, 5, 8\]"):
        game(shared)


@pytest.mark.parametrize("image", [0, 2])
def test_logits_that_are_not_finite_at_any_clean_image_are_refused(image, network, x, y):
    def breaks(z, where):
        z[where] = torch.nan

    says = "NaN or infinite logits for a finite input" if image == 0 else "nan for image 2 and the coalition of 0 of 9 cells"
    with pytest.raises(ValueError, match=says):
        AttackGame(Fragile(network, x[image, 0, 3, 4], breaks).eval(), x, 0.1 * x, y, grid=3)


def test_a_compiled_model_has_the_same_values(network, x, y):
    try:
        compiled = torch.compile(make_network(), backend="eager")
        compiled(x)
    except RuntimeError as error:  # on Pythons that it does not support yet
        pytest.skip(f"torch.compile: {error}")
    coalitions = torch.rand(7, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    try:
        values = AttackGame(compiled, x, 0.1 * x, y, grid=3)(coalitions)
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(values, AttackGame(network, x, 0.1 * x, y, grid=3)(coalitions), rtol=0, atol=1e-14)


def test_a_table_is_looked_up_by_its_bits():
    v = np.random.default_rng(0).normal(size=(2, 8))
    game = TableGame(v)
    assert game.n == 3
    chosen = torch.tensor([[True, False, True], [False, False, False], [False, True, True]])
    np.testing.assert_allclose(game(chosen), v[:, [5, 0, 6]] - v[:, :1])
    with pytest.raises(ValueError, match="has 2\\^n values, one row a game, got shape"):
        TableGame(v[:, :6])
