"""The benchmark: passes counted against each rule, ratios against a clock of our own, the command line. No test depends on a measured time."""

import importlib.util
import json
import sys
from types import ModuleType

import pytest
import torch

from irlib import create_attack, list_attacks
from irlib.bench import attacks as bench
from irlib.bench import clock
from irlib.bench.__main__ import main

STEPS = 2
# The passes of each rule, and arguments other than the benchmark's own.
PASSES = {
    "aa": (STEPS + 1, {}),
    "di": (STEPS, {}),
    "fd": (STEPS, {}),
    "fgsm": (1, {}),
    "fi": (3 + STEPS, {"masks": 3}),
    "ghost": (STEPS, {}),
    "hybrid-ir": (3 * (1 + 2 * 1) * STEPS, {"samples": 3, "draws": 1}),
    "ia": (STEPS, {}),
    "il": (3 + STEPS + 2, {"base_steps": 3}),
    "ir": ((1 + 2 * 3) * STEPS, {"draws": 3}),
    "linbp": (STEPS, {}),
    "mi": (STEPS, {}),
    "pgd": (STEPS, {}),
    "pi": (STEPS, {}),
    "rap": ((3 + 1) * STEPS, {"inner_steps": 3}),
    "sgm": (STEPS, {}),
    "ti": (STEPS, {}),
    "vr": (3 * STEPS, {"samples": 3}),
}
TINY = ["attacks", "--batch", "2", "--size", "32", "--steps", "1", "--repeats", "1"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def at():
    return bench.scene("resnet18", batch=2, size=32, device="cpu")


@pytest.fixture
def alone(monkeypatch):
    """No other library is installed."""
    for library in bench.LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)


@pytest.mark.parametrize("name", list_attacks())
def test_passes_are_those_of_the_rule(name, at):
    expected, arguments = PASSES[name]
    assert bench.passes(at.attack(name, STEPS, **arguments), at.heads if name == "fd" else at.model, at.x, at.y) == expected
    assert eval(bench.RULES.get(name, ("steps",))[0].replace("·", "*"), {"steps": STEPS, **arguments}) == expected  # as it is printed


@pytest.mark.parametrize("network", ["resnext50_32x4d", "resnet50"])
def test_deeper_networks_have_all_places(network):
    at = bench.scene(network, batch=1, size=32, device="cpu")
    assert network in bench.NETWORKS
    assert [bench.passes(at.attack(name, 1), at.model, at.x, at.y) for name in ("aa", "linbp", "ghost", "sgm", "ia")] == [2, 1, 1, 1, 1]
    assert bench.passes(at.attack("fi", 1, masks=1), at.model, at.x, at.y) == 2


def test_images_are_counted_not_calls(at):
    assert bench.passes(lambda x, y: at.model(x.repeat(3, 1, 1, 1)[:5]), at.model, at.x, at.y) == 2.5
    assert not at.model._forward_pre_hooks


def test_the_bare_pass_is_the_gradient_that_fgsm_takes(at):
    step = create_attack("fgsm", at.model, eps=0.01)(at.x, at.y) - at.x
    agree = step.sign() == bench.bare_pass(at.model, at.x, at.y).sign()
    assert agree[(at.x > 0.01) & (at.x < 0.99)].float().mean() > 0.999


def test_ratios_are_to_the_turns_before_and_after(monkeypatch):
    now = 0.0

    def takes(durations):
        def call():
            nonlocal now
            now += next(durations)

        return call

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now)
    other = takes(iter([99.0, 1.0, 3.0, 5.0, 5.0]))  # the first turn warms up
    found = clock.compared(takes(iter([4.0, 4.0, 20.0])), other, repeats=3, scale=2)
    assert found == {"ratio": 1.0, "lowest": 0.5, "highest": 2.0, "seconds": 4.0}


def test_main_prints_all_attacks_and_writes_json(alone, capsys, tmp_path):
    out = tmp_path / "bench.json"
    main([*TINY, "--out", str(out)])
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]
    assert list(result["attacks"]) == list_attacks()
    assert [line.split()[0] for line in printed.split("s a pass\n")[1].splitlines()[: len(list_attacks())]] == list_attacks()
    for row in result["attacks"].values():
        assert 0 < row["lowest"] <= row["ratio"] <= row["highest"] and row["seconds"] > 0
    assert result["settings"]["batch"] == 2 and result["versions"]["torch"] == torch.__version__ and result["device"]
    assert result["over"] == {} and "torchattack: not installed" in printed and "torchattacks: not installed" in printed


def test_another_library_is_given_the_same_rule_on_its_own_copy(alone, capsys, monkeypatch):
    made = []

    class PGD:
        def __init__(self, model, **arguments):
            self.attack = create_attack("pgd", model, steps=arguments["steps"])
            made.append((model, arguments))

        def __call__(self, x, y):
            return self.attack(x, y)

    fake = ModuleType("torchattacks")
    fake.__version__, fake.__spec__, fake.PGD = "9.9", importlib.util.spec_from_loader("torchattacks", None), PGD
    monkeypatch.setitem(sys.modules, "torchattacks", fake)
    main([*TINY, "--only", "pgd", "ia"])
    ((_, arguments),) = made
    assert arguments == dict(eps=16 / 255, alpha=2 / 255, steps=1, random_start=False)
    assert "over torchattacks 9.9's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("library", "name"), [("torchattack", "pgd"), ("torchattack", "mi"), ("torchattack", "fgsm"), ("torchattacks", "pgd"), ("torchattacks", "mi")]
)
def test_other_libraries_do_the_same(library, name, at):
    module = pytest.importorskip(library)
    own, called, arguments = bench.same_rule(library, at, STEPS)[name]
    ours, theirs = at.attack(name, STEPS, **own)(at.x, at.y), getattr(module, called)(at.model, **arguments)(at.x, at.y)
    assert ((ours - theirs).abs() < 1e-4).float().mean() > 0.99  # the rest: signs of what is 0 but for rounding


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (["--network", "resnet19"], "resnet18"),
        (["--only", "pdg"], "pdg"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--repeats", "-1"], "--repeats must be at least 1"),
        (["--size", "wide"], "invalid int value"),
        (["--device", "tpu"], "tpu"),
        (["interactions", "--sections", "speeed"], "speeed"),
        (["interactions", "--estimated", "fmnist-resnet"], "fmnist-resnet14"),
        (["interactions", "--networks", "resnet19"], "resnet18"),
        (["interactions", "--images", "0"], "--images must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(bad, says, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main([*(TINY if bad[0].startswith("--") else []), *bad, "--out", str(tmp_path / "bench.json")])
    assert stopped.value.code == 2 and says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist_is_refused_before_the_measurement(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main([*TINY, "--out", str(tmp_path / "nowhere" / "bench.json")])
    assert "folder that exists" in capsys.readouterr().err


def test_no_gpu_is_said(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main([*TINY, "--device", "cuda"])
    assert "no GPU" in capsys.readouterr().err


def test_a_measurement_that_fails_leaves_the_earlier_file(alone, monkeypatch, tmp_path):
    out = tmp_path / "bench.json"
    out.write_text("earlier")
    monkeypatch.setattr(bench, "beside_bare", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*TINY, "--out", str(out)])
    assert out.read_text() == "earlier" and list(tmp_path.iterdir()) == [out]
