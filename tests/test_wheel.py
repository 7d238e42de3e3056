"""The built wheel holds the package and all beside it; its command and its training work elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, Finished

from fairseq_masking.cli.main import VERBS

PARTS = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "fairseq_masking", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build/ folder of the repository leaks in and none is left there."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and fairseq and the rest borrowed from this one.

    Borrowed folders are named in a .pth file; their own .pth files, with the repository in one of them, are
    not read then.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (site_packages,) = folder.glob("lib/python3*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    pip("install", "--no-deps", "--no-index", "--target", site_packages, wheel)
    return folder


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def run_installed(environment: Path, *command: str | Path, cwd: Path) -> Finished:
    """Run the environment's Python, without the repository in sight."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, [environment / "bin/python", *command])), cwd=cwd, env=variables, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)


def run_fairseq(environment: Path, module: str, *arguments: str | Path, cwd: Path) -> Finished:
    """Run a fairseq command as its console script does."""
    return run_installed(environment, "-c", f"from {module} import cli_main; cli_main()", *arguments, cwd=cwd)


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "fairseq_masking").rglob("*.py")}
    plugin = {name for name in modules if name.startswith("fairseq_masking/hydra/")}
    assert modules - plugin <= names
    assert not plugin & names
    assert "hydra_plugins/fairseq_masking_plugin/__init__.py" in names
    assert "hydra_plugins/__init__.py" not in names  # a namespace package, shared with other plugins
    recipes = {f"fairseq_masking/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert recipes and recipes <= names
    beside = ("README.md", "*.html", "*.yaml", "py.typed")
    others = [path for pattern in beside for path in (ROOT / "fairseq_masking").rglob(pattern)]
    assert len(others) >= 8 and {str(path.relative_to(ROOT)) for path in others} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") or name.endswith("/LICENSE") for name in names)
    outside = {name.split("/")[0] for name in names} - {"fairseq_masking", "hydra_plugins"}
    assert all(name.endswith(".dist-info") for name in outside)


def test_trains_by_user_dir(environment: Path, small_data: Path, tmp_path: Path) -> None:
    arguments = "--task masked_pretraining --arch mlm_tiny --criterion mlm --optimizer adam --lr 1e-3 --cpu"
    arguments += " --tokens-per-sample 32 --batch-size 4 --max-update 2 --num-workers 0 --log-format simple"
    (user_dir,) = environment.glob("lib/python3*/site-packages/fairseq_masking")
    options = [small_data, "--user-dir", user_dir, "--save-dir", tmp_path / "save", *arguments.split()]
    finished = run_fairseq(environment, "fairseq_cli.train", *options, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert (tmp_path / "save" / "checkpoint_last.pt").exists()
    settings = (tmp_path / "save" / "train.log").read_text()
    assert str(user_dir) in settings and str(ROOT) not in settings + finished.stdout


def test_trains_by_hydra_groups(environment: Path, small_data: Path, tmp_path: Path) -> None:
    """No --user-dir at all: Hydra finds the plugin at the top level of the installation."""
    options = ["task=masked_pretraining", "model=mlm_tiny", "criterion=mlm", "optimizer=adam"]
    options += ["lr_scheduler=polynomial_decay", f"task.data={small_data}", "task.tokens_per_sample=32"]
    options += ["dataset.batch_size=4", "dataset.num_workers=0", "common.cpu=true"]
    options += ["optimization.max_update=2", "checkpoint.save_dir=save"]
    finished = run_fairseq(environment, "fairseq_cli.hydra_train", *options, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert (tmp_path / "save" / "checkpoint_last.pt").exists()


# Each verb's help in turn, then what was imported for all of them; as the console script starts it.
HELP = """
import contextlib, io, json, sys
sys.argv[0] = "fairseq-masking"
from fairseq_masking.cli.main import main
found = {}
for verb in sys.argv[1:]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([*verb.split(), "--help"])
    found[verb] = output.getvalue()
modules = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"help": found, "modules": modules, "from": sys.modules["fairseq_masking"].__file__}))
"""


@pytest.fixture(scope="module")
def shown(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    finished = run_installed(environment, "-c", HELP, *VERBS, cwd=tmp_path_factory.mktemp("elsewhere"))
    assert finished.returncode == 0, finished.stderr[-4000:]
    found = json.loads(finished.stdout)
    assert str(environment) in found["from"]
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example(shown: dict[str, Any], verb: str) -> None:
    text = shown["help"][verb]
    assert text.startswith(f"usage: fairseq-masking {verb} ")
    assert re.search(rf"^Example:\n  fairseq-masking {verb} \S", text, re.MULTILINE)


def test_help_imports_nothing_that_takes_seconds(shown: dict[str, Any]) -> None:
    heavy = {"torch", "fairseq", "matplotlib", "transformers", "sklearn", "scipy", "omegaconf", "hydra"}
    assert not heavy & set(shown["modules"])


def test_the_command_is_installed(environment: Path, tmp_path: Path) -> None:
    """By name and as a module; fine-tuning, which no command of before reached, up to its first question."""
    (script,) = environment.glob("lib/python3*/site-packages/bin/fairseq-masking")
    for command in ([script], ["-m", "fairseq_masking"]):
        finished = run_installed(environment, *command, "--help", cwd=tmp_path)
        assert finished.returncode == 0 and all(f"  {verb} " in finished.stdout for verb in VERBS)
    finished = run_installed(environment, script, "finetune", "--checkpoint", "absent", cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith("fairseq-masking finetune: error: ") and finished.stderr.count("\n") == 1
