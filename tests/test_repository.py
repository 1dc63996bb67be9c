"""What keeps the project in one piece: layers, dependencies, notebooks, addresses."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())

# Who may import whom: a module sees its own layer's left-hand neighbours only.
LAYERS = ["_check", "plotting", "ensemble", "surgery", "zoo.architectures", "zoo.layers", "zoo.imagenet", "zoo.store", "zoo.cast", "models", "data",
          "draws", "memory", "game", "shapley", "interactions", "regression", "sampled", "local", "precision", "samplers", "loss",
          "amplification", "quadratic", "balance", "transfer", "attacks.projection", "attacks.loop", "attacks", "", "notebook", "replicate",
          "widgets", "replicate.chapters", "replicate.__main__",
          "zoo.objectives", "zoo.train", "zoo.measure", "zoo.__main__",
          "bench.clock", "bench.tables", "bench"]  # fmt: skip


def modules():
    for path in sorted((ROOT / "irlib").rglob("*.py")):
        yield ".".join(path.relative_to(ROOT / "irlib").with_suffix("").parts).removesuffix("__init__").removesuffix("."), path


def layer(name):
    """The longest entry of LAYERS that ``name`` is or lies in."""
    return max((entry for entry in LAYERS if name == entry or (entry and name.startswith(entry + "."))), key=len, default=None)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "irlib":
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield (
                    (deeper if (ROOT / Path(*deeper.split("."))).with_suffix(".py").exists() else node.module).removeprefix("irlib").removeprefix(".")
                )


def test_imports_point_one_way():
    for name, path in modules():
        if name == "zoo":  # a docstring
            continue
        mine = layer(name)
        assert mine is not None, f"irlib.{name} is in no layer: add it to LAYERS"
        for other in imported(path):
            theirs = layer(other)
            assert theirs == mine or LAYERS.index(theirs) < LAYERS.index(mine), f"irlib.{name} imports irlib.{other}"


def test_the_mathematics_never_loads_what_draws():
    loaded = "import irlib, sys; print(*{m.split('.')[0] for m in sys.modules})"
    names = set(subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split())
    assert "torch" in names
    assert not names & {"matplotlib", "anywidget", "plotly", "timm", "foolbox", "IPython"}


def test_importing_opens_no_connection():
    blocked = "import socket; socket.socket.connect = socket.getaddrinfo = None; import irlib, irlib.widgets; irlib.load_model('fmnist-mlp')"
    subprocess.run([sys.executable, "-c", blocked], check=True)


def test_modules_stay_short():
    long = {name: lines for name, path in modules() if (lines := len(path.read_text().splitlines())) > 260}
    assert not long


def bounds(lines):
    return {
        re.split(r"[<>=\[ ]", line)[0].lower(): re.sub(r"\s*#.*", "", line).strip() for line in lines if line.strip() and not line.startswith("#")
    }


def test_requirements_contain_the_librarys_own_and_pin_neither_torch_nor_numpy():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = bounds((ROOT / "requirements.txt").read_text().splitlines())
    own = bounds(project["dependencies"] + project["optional-dependencies"]["imagenet"])
    assert own.items() <= required.items()
    for name in ("torch", "numpy"):
        assert "<" not in required[name]
        assert "==" not in required[name]
    assert all(">=" in bound for bound in required.values())


def test_the_citation_has_the_packages_version():
    import irlib

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == irlib.__version__
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == irlib.__version__


def test_the_repositorys_address_is_the_one_of_the_configuration():
    url = CONFIG["repository"]["url"]
    for path in [*NOTEBOOKS, *(ROOT / "book").glob("*.md"), ROOT / "README.md", ROOT / "CITATION.cff"]:
        for found in re.findall(r"https?://(?:www\.)?github\.com/[\w.-]+/[\w.-]+", path.read_text()):
            assert found.removesuffix(".git") == url, f"{path.name} names {found}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_stripped_and_install_irlib_only_where_it_is_missing(path):
    cells = json.loads(path.read_text())["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert not any(c["outputs"] or c["execution_count"] for c in code)
    first = "".join(code[0]["source"])
    assert "except ModuleNotFoundError" in first
    assert f"git+{CONFIG['repository']['url']}" in first
    assert not re.search(r"install.*\b(torch|numpy)\b", first)


PARTS = ["Touch it first", "The idea", "The statement", "The proofs", "Before we believe it, we run it", "Theory over a measured network", "Verdict",
         "Lab", "Recap", "Exercises", "Limits", "Software", "References"]  # fmt: skip
METHOD_CHAPTERS = ("mi", "linbp", "adversarial-training", "pi", "ia", "rap", "il", "vr", "sgm", "ghost", "fd", "fi", "ti-di-aa")
METHOD_PARTS = ["Touch it first", "The idea", "The published rule", "The statement", "The proofs", "Before we believe it, we run it",
                "Theory over a measured network", "Against plain PGD", "Verdict", "Strengths and limits", "Lab", "Recap", "Exercises", "Software",
                "References"]  # fmt: skip


def test_the_parts_of_the_book_name_every_chapter_once():
    listed = [Path(chapter["file"]) for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"] for chapter in part["chapters"]]
    assert sorted(path.name for path in listed if path.parent.name == "notebooks") == sorted(path.stem for path in NOTEBOOKS)
    first = [path.name for path in listed].index("mi")
    assert [path.name for path in listed][first : first + 14] == [*METHOD_CHAPTERS, "comparison"]


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != "comparison"], ids=lambda p: p.stem)
def test_a_chapter_has_all_its_parts(path):
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert re.findall(r"^## (.+)$", text, re.M) == (METHOD_PARTS if path.stem in METHOD_CHAPTERS else PARTS)
    assert "**Question.**" in text
    assert 3 <= text.count("```{exercise}") == text.count("```{solution}") <= 5
    assert "{glue:text}`start-" in text, "no sentence quotes the widget"
    assert "```{prf:" in text
    checks = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    assert checks.count("assert ") >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_measured_numbers_in_prose_are_glued(path):
    """No percentage and no decimal fraction is typed into a sentence, but where the code of a cell sets it."""
    cells = json.loads(path.read_text())["cells"]
    code = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    settings = set(re.findall(r"\d+\.\d+", code)) | {"95"}
    for cell in cells:
        if cell["cell_type"] == "markdown":
            text = re.sub(r"```+python.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|Section \d\.\d", "", "".join(cell["source"]), flags=re.S)
            typed = {n for n in re.findall(r"\d+\.\d+", text) if n not in settings} | {n for n in re.findall(r"(\d+) ?%", text) if n not in settings}
            assert not typed, typed


def test_the_readmes_table_of_networks_is_the_manifests():
    from irlib.zoo import store

    rows = re.findall(r"^\| `(fmnist-[\w-]+)` \| ([\d.]+) % \| (\d+) k \| ([\d.]+) M \|$", (ROOT / "README.md").read_text(), re.M)
    facts = store.manifest()
    assert [name for name, *_ in rows] == sorted(facts)
    for name, accuracy, parameters, cost in rows:
        assert float(accuracy) == pytest.approx(100 * facts[name]["test"]["accuracy"], abs=0.051)
        assert int(parameters) == round(facts[name]["parameters"] / 1e3)
        assert float(cost) == pytest.approx(facts[name]["multiply_adds"] / 1e6, rel=0.05)


def test_the_readmes_table_of_attacks_is_the_librarys():
    from irlib import list_attacks
    from irlib.attacks import METHODS

    text = (ROOT / "README.md").read_text()
    rows = {slot: set(re.findall(r"`([\w-]+)`", names)) for slot, names in re.findall(r"^\| (\w+) \| [^|`]+ \| (`.*) \|$", text, re.M)}
    assert list(rows) == ["network", "objective", "sampling", "direction", "projection"]
    for slot, names in rows.items():
        assert names == {name for name, (filled, _) in METHODS.items() if slot in filled}
    assert set.union(*rows.values()) | {"pgd", "fgsm", "hybrid-ir"} == set(list_attacks())


def test_the_readmes_example_runs():
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    scope = {}
    exec(example, scope)
    assert scope["x_adv"].shape == (8, 1, 28, 28)
    assert scope["game"].n == 196
    assert len(scope["q"].eigenvalues) == 9


def test_every_section_of_the_benchmark_has_a_stored_result_that_the_page_shows():
    from irlib.bench.interactions import SECTIONS
    from irlib.bench.tables import published

    page = (ROOT / "book" / "estimators.md").read_text()
    for section in SECTIONS:
        found = list(published(section))
        assert found and all(table.rows for table, _ in found)
        assert f'"{section}"' in page
