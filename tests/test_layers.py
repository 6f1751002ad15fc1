"""The floors of the package: a module imports from lower floors, or from its own without a circle."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minidiff"
FLOORS = (
    {"arguments", "extras", "noise"},
    {"process", "times", "data", "nets"},
    {"denoiser", "analytic", "clusters", "conditional", "linear", "local", "memorisation", "sparse"},
    {
        "objectives",
        "samplers",
        "grids",
        "guidance",
        "inverse",
        "likelihood",
        "bound",
        "continuous_bound",
        "learned_schedule",
        "ode",
        "fokker_planck",
        "affine_law",
        "bridge",
        "cld",
        "uncertainty",
    },
    {"train", "metrics", "families"},
    {"zoo", "distill", "efficient", "apps", "checks", "costs"},
    {"bench", "plot", "widgets"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
# torch itself loads tqdm, so that is not here.
LATE = (
    "accelerate",
    "diffusers",
    "ipywidgets",
    "IPython",
    "matplotlib",
    "PIL",
    "safetensors",
    "scipy",
    "skimage",
    "sklearn",
)


def modules(package):
    """Dotted name -> file, for every module of the package but its own __init__, which is the roof."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(name, path, known):
    """The modules of the package that the file imports, at its top or inside functions, each with the line."""
    inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["minidiff", *filter(None, inside.split("."))]
                base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [base])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        for target in targets:
            parts = target.split(".")
            if parts[0] == "minidiff":  # the longest beginning that is a module; the rest is a name in it
                ends = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
                yield next((module for module in ends if module in known), "minidiff"), node.lineno


def violations(package):
    """Unknown modules, imports from a higher floor or from the roof, and circles."""
    known, wrong, graph = modules(package), [], {}
    for name, path in sorted(known.items()):
        top = name.partition(".")[0]
        if top not in FLOOR:
            wrong.append(f"{name} has no floor")
            continue
        graph[name] = set()
        for target, line in imports(name, path, known):
            if target == "minidiff":
                wrong.append(f"{name}:{line} imports the roof")
            elif FLOOR.get(target.partition(".")[0], 0) > FLOOR[top]:
                wrong.append(f"{name}:{line} imports {target} from a higher floor")
            elif target != name:
                graph[name].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        wrong.append(f"a circle: {' -> '.join(circle.args[1])}")
    return wrong


def test_imports_go_down():
    assert violations(PACKAGE) == []


def test_imports_are_read():
    known = modules(PACKAGE)
    found = {target for name, path in known.items() for target, _ in imports(name, path, known)}
    assert {"arguments", "process", "denoiser"} <= found


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"process.py": "from minidiff.train import fit"}, "process:1 imports train from a higher floor"),
        ({"process.py": "import minidiff.plot"}, "process:1 imports plot from a higher floor"),
        ({"process.py": "from minidiff import sample"}, "process:1 imports the roof"),
        ({"process.py": "from . import train"}, "process:1 imports train from a higher floor"),
        ({"process.py": "def f():\n    from .train import fit"}, "process:2 imports train from a higher floor"),
        ({"nets/__init__.py": "", "nets/unet.py": "from ..zoo import load"}, "nets.unet:1 imports zoo"),
        ({"nets/__init__.py": "from .. import zoo"}, "nets:1 imports zoo from a higher floor"),
        ({"times.py": "import minidiff.process", "process.py": "from minidiff import times"}, "a circle: "),
        (
            {"nets/a.py": "from .b import x", "nets/b.py": "from minidiff.nets import a", "nets/__init__.py": ""},
            "a circle: ",
        ),
        ({"helpers.py": ""}, "helpers has no floor"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, files, message):
    for name in ("train.py", "zoo.py", "plot.py", "__init__.py"):
        (tmp_path / name).touch()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    wrong = violations(tmp_path)
    assert len(wrong) == 1
    assert wrong[0].startswith(message)


def test_importing_the_package_loads_torch_and_nothing_that_can_wait():
    script = f"import sys, minidiff; print([name for name in {LATE!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_every_module_loads_nothing_optional():
    names = [f"minidiff.{name}" for name in modules(PACKAGE) if not name.endswith("__main__")]
    script = (
        f"import importlib, sys\nfor name in {sorted(names)!r}: importlib.import_module(name)\n"
        f"print([name for name in {LATE!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
