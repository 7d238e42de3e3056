"""The rules that keep the house in order and that no import contract can say (pyproject.toml has those)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from commands import PACKAGE, ROOT

from fairseq_masking.cli.main import VERBS

METHODS = ("amos", "fully_explored", "map_net", "mlm", "three_ml")
FILES = sorted(PACKAGE.rglob("*.py"))
TEXTS = [
    *FILES,
    *PACKAGE.rglob("*.md"),
    *(ROOT / "configs").rglob("*.yaml"),
    *(path for path in (ROOT / "scripts").rglob("*") if path.suffix in (".md", ".py", ".sh", ".slurm", ".bash")),
    ROOT / "README.md",
    ROOT / "Makefile",
]


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a kind in the package, with its file."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield str(path.relative_to(PACKAGE)), node


@pytest.fixture(scope="module")
def users() -> dict[str, set[str]]:
    """By module, the methods that import it, directly or not."""
    graph = grimp.build_graph("fairseq_masking")
    found: dict[str, set[str]] = {module: set() for module in graph.modules}
    for method in METHODS:
        for module in graph.find_upstream_modules(f"fairseq_masking.methods.{method}", as_package=True):
            found[module].add(method)
    return found


@pytest.mark.parametrize("room", ["ops", "modules"])
def test_what_stands_in_a_shared_room_serves_two_methods(room, users):
    inside = {name: methods for name, methods in users.items() if name.startswith(f"fairseq_masking.{room}.")}
    late = {f"fairseq_masking.ops.linear_cross_entropy.{rows}_rows" for rows in ("torch", "triton")}
    assert len(inside) > 3
    lonely = {name: methods for name, methods in inside.items() if len(methods) < 2 and name not in late}
    assert not lonely, "these belong into their method's folder"


def test_the_mask_symbol_is_spelt_once():
    places = {path for path, node in nodes(ast.Constant) if node.value == "<mask>"}
    assert places <= {"tokenizers/symbols.py", "checkpoints/modeling_fairseq_masking.py"}


def test_batches_are_made_in_one_place():
    contract = {"positions", "kinds", "replacements", "num_masked"}
    made = {
        path
        for path, node in nodes(ast.Dict)
        if contract <= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    }
    assert made <= {"data/batch.py"}


def test_checkpoints_are_read_in_one_place():
    readers = {
        path
        for path, node in nodes(ast.Call)
        if ast.unparse(node.func) in ("torch.load", "checkpoint_utils.load_checkpoint_to_cpu", "safe_open")
    }
    assert readers <= {"checkpoints/loading.py"}


def test_tables_are_formatted_in_one_place():
    formatters = {
        path for path, node in nodes(ast.Call) if ast.unparse(node.func) in ("' | '.join", "rich.table.Table")
    }
    assert formatters <= {"figures/tables.py"}


def test_what_is_named_exists():
    """Scripts, and verbs of the command, in messages, docstrings, recipes and pages."""
    missing = []
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for script in re.findall(r"\bscripts/[\w/.]+\.(?:sh|py|slurm|bash)\b", text):
            if not (ROOT / script).exists():
                missing.append((str(path.relative_to(ROOT)), script))
        for first, second in re.findall(
            r"(?:`|^|\s)(?:fairseq-masking|-m fairseq_masking) ([a-z]+)(?: ([a-z]+))?", text
        ):
            groups = {verb.split()[0] for verb in VERBS}
            if first not in (VERBS if second else groups) and f"{first} {second}" not in VERBS:
                missing.append((str(path.relative_to(ROOT)), f"{first} {second}"))
    assert not missing


def test_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("method", METHODS)
def test_a_paper_has_its_page(method):
    page = (PACKAGE / "methods" / method / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(\w+\.py)`", page):
        assert list(PACKAGE.rglob(name)), name


def test_no_two_test_modules_share_a_name():
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names))
