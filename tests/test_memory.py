"""What a pass occupies, passes in parts, and what becomes of them where memory runs out: alone, in a game, in the interaction loss."""

import warnings

import pytest
import torch
from torch import nn

from irlib import memory
from irlib.game import AttackGame
from irlib.loss import interaction_loss
from irlib.memory import PassSize, budget, in_parts
from tests.conftest import assert_untouched, make_images, snapshot


def make_delta(x, seed=1):
    return 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("total", "size"), [(12, 4), (13, 4), (3, 4), (4, 4), (5, 1), (1, 1), (0, 3)])
def test_parts_cover_everything_once_and_in_order(total, size):
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_parts(lambda start, stop: parts.append((start, stop)), total, size) == size
    assert [i for start, stop in parts for i in range(start, stop)] == list(range(total))
    assert all(stop - start == size for start, stop in parts[:-1]) and len(parts) == -(-total // size)


def raised_class(amount):
    raise torch.OutOfMemoryError("out of memory")


def refused_by_the_allocator(amount):
    torch.empty(2**50, dtype=torch.uint8)  # 1 PiB is more than any machine can address


@pytest.mark.parametrize("run_out", [raised_class, refused_by_the_allocator])
@pytest.mark.parametrize(
    ("total", "size", "room", "tried", "reached"),
    [
        (20, 8, 8, [(0, 8), (8, 16), (16, 20)], 8),
        (20, 8, 4, [(0, 8), (0, 4), (4, 8), (8, 12), (12, 16), (16, 20)], 4),
        (10, 7, 2, [(0, 7), (0, 4), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10)], 2),
        (3, 5, 1, [(0, 3), (0, 2), (0, 1), (1, 2), (2, 3)], 1),
        (6, 1000, 3, [(0, 6), (0, 3), (3, 6)], 3),  # half of the 6 there are, not of the 1000 asked for
    ],
)
def test_where_memory_runs_out_half_as_many_go_on_from_the_same_start(run_out, total, size, room, tried, reached):
    attempts, done = [], []

    def run(start, stop):
        attempts.append((start, stop))
        if stop - start > room:
            run_out(stop - start)
        done.extend(range(start, stop))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert in_parts(run, total, size) == reached
    assert attempts == tried and done == list(range(total))
    assert len(warned) == (reached < size)
    assert all(w.category is UserWarning and f"out of memory with {min(size, total)} in one pass" in str(w.message) for w in warned)


def test_memory_that_runs_out_late_keeps_what_was_done():
    attempts, done = [], []

    def run(start, stop):
        attempts.append((start, stop))
        if start >= 8 and stop - start > 1:
            raise torch.OutOfMemoryError("less room than before")
        done.extend(range(start, stop))

    with pytest.warns(UserWarning, match="out of memory with 2 in one pass") as warned:
        assert in_parts(run, 10, 4) == 1
    assert attempts == [(0, 4), (4, 8), (8, 10), (8, 9), (9, 10)] and done == list(range(10))
    assert len(warned) == 1


@pytest.mark.parametrize("size", [1, 4])
def test_a_single_one_that_does_not_fit_raises_what_the_allocator_raised(size):
    error, attempts = torch.OutOfMemoryError("not even one"), []

    def run(start, stop):
        attempts.append((start, stop))
        raise error

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(torch.OutOfMemoryError) as caught:
            in_parts(run, 9, size)
    assert caught.value is error
    assert attempts == [(0, k) for k in (4, 2, 1) if k <= size]


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of memory"), KeyboardInterrupt()])
def test_other_errors_pass_through_at_once(error):
    attempts = []

    def run(start, stop):
        attempts.append((start, stop))
        raise error

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(type(error)) as caught:
            in_parts(run, 9, 4)
    assert caught.value is error and attempts == [(0, 4)]


def deep(layers):
    return nn.Sequential(*(nn.Softplus() for _ in range(layers)))


IMAGE = 36 * 8  # bytes of a 1×6×6 image in float64


@pytest.mark.parametrize("batch", [1, 3])
def test_a_pass_without_a_graph_is_bounded_by_its_largest_layer_however_deep(batch):
    for layers in (2, 12):
        model = deep(layers)
        with torch.no_grad(), PassSize(model) as one:
            model(torch.rand(batch, 1, 6, 6, dtype=torch.float64))
        assert one.bytes == 4 * 2 * batch * IMAGE
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, 1000), nn.Linear(1000, 2)).double()
    with torch.no_grad(), PassSize(wide) as one:
        wide(torch.rand(batch, 1, 6, 6, dtype=torch.float64))
    assert one.bytes == 4 * batch * (8000 + IMAGE)


def test_a_pass_with_a_graph_is_what_it_keeps_and_the_gradients_graph_keeps_more():
    model, x = deep(12), torch.rand(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    with PassSize(model) as one:
        model(x)
    assert one.bytes == 12 * IMAGE  # a Softplus keeps its input
    with PassSize(model) as two:
        torch.autograd.grad(model(x).sum(), x, create_graph=True)
    assert two.bytes >= 24 * IMAGE


def test_parameters_are_no_part_of_a_pass():
    model, x = nn.Sequential(nn.Flatten(), *(nn.Linear(36, 36) for _ in range(20))).double(), torch.rand(1, 1, 6, 6, dtype=torch.float64)
    with PassSize(model) as one:
        model(x.requires_grad_())
    assert one.bytes < 36 * IMAGE  # one of the twenty weights


def test_the_hooks_go_even_where_the_pass_fails(network, x):
    before = snapshot(network)
    with pytest.raises(RuntimeError), PassSize(network):
        network(torch.cat([x, x], 1))
    assert_untouched(network, before)
    with PassSize(network) as one:
        network(x)
    measured = one.bytes
    network(torch.cat([x, x]))
    assert one.bytes == measured > 0
    assert_untouched(network, before)


def test_the_cpus_budget_is_set_in_one_place(monkeypatch):
    monkeypatch.setattr("irlib.memory.CPU_BYTES", 123)
    assert budget(torch.device("cpu")) == 123


class Cramped(nn.Module):
    """A network that more than ``room`` images at once do not fit into, on the way forward or back."""

    def __init__(self, network, room, on_the_way="forward"):
        super().__init__()
        self.network, self.room, self.on_the_way = network, room, on_the_way
        self.refused = 0

    def forward(self, x):
        if len(x) > self.room and self.on_the_way == "forward":
            self.refuse(x)
        z = self.network(x)
        if len(x) > self.room and z.requires_grad:
            z.register_hook(self.refuse)
        return z

    def refuse(self, _):
        self.refused += 1
        raise torch.OutOfMemoryError("too many images")


@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize(("chunk", "refused"), [(None, [60, 30, 15, 8]), (7, [7])])
def test_a_game_that_runs_out_of_memory_has_the_same_values_and_learns_its_chunk(chunk, refused, utility, network, x, y):
    delta, coalitions = make_delta(x), torch.rand(20, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = AttackGame(network, x, delta, y, grid=3, utility=utility)(coalitions)
    model = Cramped(network, 5).eval()
    game = AttackGame(model, x, delta, y, grid=3, utility=utility, chunk=chunk)
    asked = game.chunk
    assert asked >= 7 and model.refused == 0
    with pytest.warns(UserWarning, match="out of memory with") as warned:
        found = [game(coalitions) for _ in range(3)]
    assert len(warned) == 1
    assert game.chunk == 4 and model.refused == len(refused)  # of the first call alone
    for values in found:
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-14)


def everyone_in(model, x, y, utility):
    game = AttackGame(model.eval(), x, make_delta(x), y, grid=3, utility=utility)
    return game.chunk, game(torch.ones(1, 9, dtype=torch.bool))


@pytest.mark.parametrize("utility", ["ce", "margin"])
def test_a_game_of_a_batch_that_does_not_fit_halves_it_for_the_clean_images_and_the_rivals_already(utility, network):
    x = make_images(batch=7)
    y = network(x).argmax(1)
    with pytest.warns(UserWarning, match="out of memory") as warned:
        chunk, found = everyone_in(Cramped(network, 5), x, y, utility)
    assert len(warned) == 1 and chunk == {"ce": 3, "margin": 4}[utility]  # half of the six clean images beside the first, of seven perturbed ones
    torch.testing.assert_close(found, everyone_in(network, x, y, utility)[1], rtol=0, atol=1e-14)


def test_a_game_of_a_model_that_takes_no_image_raises_what_the_allocator_raised(network, x, y):
    model = Cramped(network, 3).eval()
    game = AttackGame(model, x, make_delta(x), y, grid=3)
    model.room = 0
    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(torch.OutOfMemoryError, match="too many images"):
        game(torch.ones(1, 9, dtype=torch.bool))


@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize("on_the_way", ["forward", "back"])
def test_the_interaction_loss_that_runs_out_of_memory_has_the_same_value_and_gradient(on_the_way, utility, network, x, y):
    settings = dict(grid=3, draws=6, coalition=2, utility=utility)
    weights = torch.tensor([1.0, -2.5, 0.3], dtype=torch.float64)

    def value_and_gradient(model):
        delta = make_delta(x).requires_grad_()
        loss = interaction_loss(model, x, delta, y, **settings)
        return loss.detach(), torch.autograd.grad(loss @ weights, delta)[0]

    model = Cramped(network, 7, on_the_way).eval()  # 7: the batch fits, two copies of it, as one coalition each, do; twelve do not
    with pytest.warns(UserWarning, match="out of memory") as warned:
        found = value_and_gradient(model)
    assert len(warned) == 1 and model.refused == 3  # 12, 6 and 3 coalitions; 2 fit
    for cramped, roomy in zip(found, value_and_gradient(network), strict=True):
        assert roomy.abs().max() > 1e-3
        torch.testing.assert_close(cramped, roomy, rtol=0, atol=1e-12)


def test_the_loss_measures_a_pass_once_for_each_batch_and_kind(monkeypatch, network, x, y):
    noted, note = [], memory.PassSize._note
    monkeypatch.setattr(memory.PassSize, "_note", lambda self, *pass_: (noted.append(pass_), note(self, *pass_))[-1])
    loss = lambda images, wanted: interaction_loss(
        network, images, make_delta(images).requires_grad_(wanted), y[: len(images)], grid=2, draws=2, coalition=1
    )
    measured = lambda images, wanted: (noted.clear(), loss(images, wanted), bool(noted))[-1]
    assert measured(x, True) and not measured(x, True)
    assert measured(x, False) and not measured(x, False)
    assert measured(x[:2], True) and not measured(x, True)


def test_a_pass_that_failed_is_measured_again(network, x):
    with pytest.raises(RuntimeError), PassSize(network, "key"):
        network(x[:, :, :3])
    with PassSize(network, "key") as one:
        network(x)
    assert one.bytes > 0
    with PassSize(network, "key") as again:
        network(x[:1])
    assert again.bytes == one.bytes
