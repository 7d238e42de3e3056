"""Pages keep their word: blocks run as printed, shortened in sizes alone; what they name exists."""

import ast
import re
from pathlib import Path

import pytest
from commands import ROOT
from fairseq import options
from page_commands import (
    ADDED,
    NOT_RUN,
    PARSED,
    SHORTER,
    commands_of,
    copy_template,
    parser_of,
    run_page_command,
    write_template,
)
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import fairseq_masking  # noqa: F401 - registers what the parsers offer
from fairseq_masking.cli.main import VERBS

PACKAGE = ROOT / "fairseq_masking"
PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in (PACKAGE, ROOT / "configs", ROOT / "scripts")
    for path in folder.rglob("README.md")
)
PAGES = ["README.md", *PAGES]
# Scripts', Hydra's, fairseq-preprocess's.
OPTIONS_OF_OTHERS = {"--gpus", "--nodes", "--rendezvous", "--cfg", "--budget", "--dry", "--dry-run", "--help"}
OPTIONS_OF_OTHERS |= {"--only-source", "--only", "--systems", "--all"}
METHODS = [page for page in PAGES if "/methods/" in page]


def run_bash(example: Example) -> None:
    """Each command of the block, in order."""
    for command in commands_of(example.parsed):
        run_page_command(command, Path.cwd())


SYBIL = Sybil([CodeBlockParser("bash", run_bash), PythonCodeBlockParser()])
DOCUMENTS = {page: SYBIL.parse(ROOT / page) for page in PAGES}
BLOCKS = [(page, example) for page, document in DOCUMENTS.items() for example in document.examples()]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    write_template(folder)
    return folder


@pytest.fixture(scope="module")
def workspaces(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each page, as its blocks follow on one another."""
    parent = tmp_path_factory.mktemp("pages")
    return {page: copy_template(template, parent / page.replace("/", "_")) for page in PAGES}


@pytest.mark.parametrize(("page", "example"), BLOCKS, ids=[f"{page}:{block.line}" for page, block in BLOCKS])
def test_block_runs(page, example, workspaces, monkeypatch, transformers):
    monkeypatch.chdir(workspaces[page])
    example.evaluate()


def test_every_rule_of_shortening_is_used():
    """What no page prints any more goes from the tables."""
    printed = [command for _, block in BLOCKS for command in commands_of(block.parsed)]
    for pattern in (*NOT_RUN, *PARSED, *(pattern for pattern, _ in (*SHORTER, *ADDED))):
        tiny = [re.sub("_base", "_tiny", command) for command in printed]
        assert any(re.search(pattern, command) for command in printed + tiny), pattern


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def without_blocks(page):
    return re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)


def names_in(path):
    """Functions, classes and constants at the top of a module."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("fairseq_masking/")])
def test_files_and_functions_of_tables_exist(page):
    folder = (ROOT / page).parent
    entries = re.findall(r"`([\w/]+\.py): ([\w, ]+)`", text_of(page))
    for file, names in entries:
        path = next((place / file for place in (folder, PACKAGE) if (place / file).is_file()), None)
        assert path is not None, file
        for name in names.split(", "):
            assert name in names_in(path), f"{file}: {name}"
    assert len(entries) >= 6 or page not in METHODS


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_and_files_exist(page):
    text, folder = without_blocks(page), (ROOT / page).parent
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^]]+\]: (\S+)$", text, re.MULTILINE)
    for link in links:
        path, _, anchor = link.partition("#")
        if path.startswith("http"):
            continue
        target = (folder / path).resolve() if path else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in headings], link
    results = ROOT / "scripts" / "bench" / "results"
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        for name in re.findall(r"`(\w+\.(?:csv|json))`", row.split("|")[-2]):
            assert (results / name).is_file() or name == "manifest.json", name
    for name in re.findall(r"`((?:scripts|configs|tests)/[\w./]+)", text):
        assert (ROOT / name).exists() or page == "CHANGELOG.md", name


@pytest.mark.parametrize("page", [*METHODS, "configs/README.md"])
def test_recipes_exist(page):
    recipes = {path.stem for path in (ROOT / "configs" / "pretrain").glob("*.yaml")}
    named = re.findall(
        r"`((?:mlm|fully_explored|map_net|three_ml|amos)_(?:tiny|base|large|cs|news|residues)\w*|mlm_modern_base)`",
        text_of(page),
    )
    assert set(named) <= recipes
    if page == "configs/README.md":
        starred = {recipe for recipe in recipes if recipe.startswith(("three_ml_base_", "three_ml_large_"))}
        assert set(named) | starred == recipes


def options_of_training():
    """Every option that fairseq-train takes with something of ours."""
    found = set()
    for task, arch, criterion, more in (
        ("masked_pretraining", "mlm_tiny", "fully_explored_mlm", "--optimizer fused_adamw --lr-scheduler linear"),
        ("masked_pretraining", "map_net_tiny", "map_net", "--optimizer adam --lr-scheduler polynomial_decay"),
        ("masked_pretraining", "three_ml_tiny", "mlm", "--optimizer muon --lr-scheduler wsd"),
        ("masked_pretraining", "amos_tiny", "amos", "--optimizer adam"),
        ("sentence_prediction", "mlm_tiny", "scored_sentence_prediction", "--optimizer adam"),
        ("squad", "mlm_tiny", "squad", "--optimizer adam"),
    ):
        given = f"data --task {task} --arch {arch} --criterion {criterion} {more}".split()
        options.parse_args_and_arch(
            options.get_training_parser(),
            given,
            modify_parser=lambda parser: found.update(parser._option_string_actions),
        )
    return found


def options_of_verbs():
    found = set()
    for verb in VERBS:
        parser, _ = parser_of(verb.split())
        found |= set(parser._option_string_actions)
    return found


def test_options_in_the_text_exist():
    known = options_of_training() | options_of_verbs()
    for page in PAGES:
        for option in re.findall(r"`[^`\n]*?(--[a-z][\w-]*)", without_blocks(page)):
            assert option in known or option in OPTIONS_OF_OTHERS, f"{page}: {option}"


def test_verbs_exist():
    for page in [*PAGES, "CHANGELOG.md"]:
        for words in re.findall(r"(?:fairseq-masking|-m fairseq_masking) ([a-z][a-z ]*)", text_of(page)):
            assert any(words.strip().startswith(verb) for verb in VERBS), f"{page}: {words}"


def test_readme_is_read_in_five_minutes():
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 125
