"""Planted mistakes: mutants of what masks, computes losses and resumes, and whether a test sees each.

    make mutants [MUTANTS="--sample 300 --seed 0"]        (in an environment of its own, with cosmic-ray and coverage)

cosmic-ray says what can be planted; of the places a seeded sample is drawn, and of each place one mutant. A first run
of the tests keeps which lines each test runs (map.json in ``--folder``). A mutant is then tried in a process forked
from this one, which has imported everything but the package: the tests that run its line, those of its own room first,
and those that start commands, until one fails. MUTANTS.md has those that no test has seen, and why.
"""

import argparse
import ast
import atexit
import contextlib
import csv
import itertools
import json
import multiprocessing.process
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCOPE = (
    "masking/*.py", "ops/attention.py", "ops/dispatch.py", "ops/indices.py", "ops/linear_cross_entropy/*.py",
    "methods/amos/gumbel_mixture/*.py", "methods/amos/mixture.py", "methods/amos/criterion.py",
    "methods/map_net/ragged.py", "methods/map_net/sampling.py", "methods/map_net/criterion.py",
    "methods/three_ml/arrangement.py", "methods/fully_explored/criterion.py", "methods/mlm/criterion.py",
    "methods/base/masked_tokens.py", "compat/checkpoints.py", "compat/epochs.py", "compat/runs.py",
    "compat/signals.py", "compat/numbers.py", "checkpoints/start.py", "optim/adamw.py", "optim/fused_adamw.py",
    "optim/muon.py", "optim/sharded.py",
)  # fmt: skip
NOT_EAGER = "triton_rows.py"
TESTS = (
    "tests/masking", "tests/ops", "tests/methods", "tests/optim", "tests/compat", "tests/golden",
    "tests/checkpoints/test_start.py", "tests/checkpoints/test_run_state.py", "tests/checkpoints/test_loading.py",
    "tests/corpus/test_collocations.py",
)  # fmt: skip
SLOW = (
    "_compiled.py",
    "test_triton_compilation",
    "[triton",
    "test_environment.py",
    "test_imports.py",
    "test_distributed.py",
    "test_sharded.py",  # and others of several ranks: killed by SIGBUS now and then, forked so late
    "ranks_stop",
    "two_ranks",
    "test_a_run_says_what_it_is",
    "test_trains_as_adam_does",
)
RESUMING = ("tests/compat/", "tests/checkpoints/")  # where tests start commands, of which no lines are seen, for both
UNSEEN = ("survives", "no test runs it")
_numbers = itertools.count(10)  # of mistakes
SECONDS = 60.0  # of tests a mutant, as they took unbroken; the quickest first


@dataclass(frozen=True)
class Mutant:
    """One mistake: ``occurrence`` of cosmic-ray's ``operator`` in ``file``, of the package; [first, last] lines."""

    file: str
    operator: str
    occurrence: int
    line: int
    column: int

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.operator.removeprefix('core/')}"


def all_mutants(package: Path) -> dict[tuple[str, int, int], list[Mutant]]:
    """What can be planted, by place; without what is the same program (annotations)."""
    from cosmic_ray.ast import Visitor, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    names = [name for name in operator_names() if not name.endswith(("VariableReplacer", "VariableInserter"))]
    operators = {name: get_operator(name)() for name in names}

    class Places(Visitor):
        def __init__(self) -> None:
            self.found: dict[str, list[tuple[int, int]]] = {name: [] for name in names}

        def visit(self, node: Any) -> Any:
            for name, operator in operators.items():
                self.found[name] += [start for start, _ in operator.mutation_positions(node)]
            return node

    found = defaultdict(list)
    for path in sorted({path for pattern in SCOPE for path in package.glob(pattern)}):
        if path.name == NOT_EAGER:
            continue
        source, file = path.read_text(encoding="utf-8"), str(path.relative_to(package))
        places, annotations = Places(), _annotations(source)
        places.walk(get_ast(source))
        for name in names:
            for occurrence, (line, column) in enumerate(places.found[name]):
                if not any(first <= (line, column) < last for first, last in annotations):
                    found[file, line, column].append(Mutant(file, name, occurrence, line, column))
    return found


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where they stand; functions' and variables'."""
    nodes = []
    for node in ast.walk(ast.parse(source)):
        nodes += [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes if n is not None]


def mutated(source: str, mutant: Mutant) -> str:
    """The text of the file with its mistake."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)


def changed(source: str, broken: str) -> str:
    """What the mistake makes of the lines."""
    return " / ".join(sorted(line.strip() for line in set(broken.splitlines()) - set(source.splitlines())))[:200]


def statement(source: str, line: int) -> tuple[range, bool]:
    """The lines of the innermost statement at a line, without a block that it heads; whether it runs at import."""
    best, inside = range(line, line + 1), False
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or line):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            inside |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and line > end
            if node.lineno <= line <= max(end, node.lineno):
                best = range(node.lineno, max(end, node.lineno) + 1)
    return best, not inside


class Watch:
    """A plugin of pytest: only some tests, in an order; and the time of each, and what it runs."""

    def __init__(self, chosen: list[str] | None = None, context: Callable[[str], None] | None = None) -> None:
        self.order = None if chosen is None else {name: number for number, name in enumerate(chosen)}
        self.context = context
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: list[str] = []
        self.starts: set[str] = set()  # commands
        self.current = ""

    def put_in_order(self, items: list[Any]) -> None:
        if self.order is None:
            items[:] = [item for item in items if not any(word in item.nodeid for word in SLOW)]
        else:
            items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.current = nodeid
        if self.context:
            self.context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def run_tests(arguments: list[str], watch: Watch) -> int:
    """pytest's status."""
    import pytest

    class Last:  # after conftest's own order
        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            watch.put_in_order(items)

    options = [
        *(["-x"] if watch.order else []),
        "-q",
        "--no-header",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-p",
        "no:xdist",
    ]
    return int(pytest.main([*options, *arguments], plugins=[watch, Last()]))


def in_child(function: Callable[[], int], output: Path, timeout: float) -> int | None:
    """The status of a function in a forked process; None if it takes longer."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.setsid()
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            status = function()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(status)
    end = time.monotonic() + timeout
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it has started, too
    if ended[0] == 0:
        os.waitpid(pid, 0)
        return None
    return os.waitstatus_to_exitcode(ended[1])


def fork_servers() -> None:
    """``fork_server``'s servers, forked from here: what is imported need not be imported again."""
    import fork_server

    if fork_server._FOLDER in os.environ:
        return
    folder = os.environ[fork_server._FOLDER] = tempfile.mkdtemp()
    listeners = [socket.socket(socket.AF_UNIX) for _ in fork_server.SERVERS]
    for name, listener in zip(fork_server.SERVERS, listeners, strict=True):
        listener.bind(f"{folder}/{name}")
        listener.listen()
    read, write = os.pipe()  # closed when we end
    if os.fork() == 0:
        os.close(write)
        os.dup2(read, 0)
        sys.path.insert(0, "")  # it takes its own folder away
        weakref.finalize._registry.clear()  # a command's end would remove the folders that were open here
        atexit._clear()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # not pytest's
        try:
            fork_server._serve(*listeners)
        finally:
            os._exit(0)
    os.close(read)
    for listener in listeners:
        listener.close()


def make_map(folder: Path) -> dict[str, Any]:
    """Which tests run which line of which file, how long each takes, which start commands."""
    kept = folder / "map.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    files = sorted({file for name in TESTS for file in [Path(name), *Path(name).rglob("*.py")] if file.is_file()})
    files = [file for file in files if file.name.startswith("test_") and not any(word in str(file) for word in SLOW)]
    halves = [[str(file) for file in files[half::2]] for half in range(2)]
    parts = [folder / f"map{half}.json" for half in range(2)]

    def measure(half: int) -> int:
        import coverage
        import fork_server

        fork_servers()
        package = Path("fairseq_masking").resolve()
        include = [str(package / pattern) for pattern in SCOPE]
        measured = coverage.Coverage(data_file=None, include=include)
        measured.start()
        watch = Watch(context=lambda name: measured.switch_context(name))

        def noting(original: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*args: Any, **options: Any) -> Any:
                watch.starts.add(watch.current)
                return original(*args, **options)

            return noted

        import commands

        commands.run_forked = noting(fork_server.run_forked)
        multiprocessing.process.BaseProcess.start = noting(multiprocessing.process.BaseProcess.start)
        status = run_tests(halves[half], watch)
        measured.stop()
        data = measured.get_data()
        lines = {
            str(Path(file).relative_to(package)): {
                line: [name for name in names if name] for line, names in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        found = {"seconds": watch.seconds, "starts": sorted(watch.starts), "failed": watch.failed, "lines": lines}
        parts[half].write_text(json.dumps(found), encoding="utf-8")
        return status

    other = os.fork()
    half = 1 if other == 0 else 0
    status = in_child(lambda: measure(half), folder / f"map{half}.log", 7200)
    if other == 0:
        os._exit(70 if status is None else status)
    if not {status, os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])} <= {0, 1}:
        sys.exit(f"the tests do not run: {folder / 'map0.log'}, {folder / 'map1.log'}")
    found: dict[str, Any] = {"seconds": {}, "starts": [], "failed": [], "lines": {}}
    for part in parts:
        read = json.loads(part.read_text(encoding="utf-8"))
        found["seconds"] |= read["seconds"]
        found["starts"] += read["starts"]
        found["failed"] += read["failed"]
        for file, lines in read["lines"].items():
            of_file = found["lines"].setdefault(file, {})
            for line, names in lines.items():
                of_file[line] = of_file.get(line, []) + names
    kept.write_text(json.dumps(found), encoding="utf-8")
    print(f"{len(found['seconds'])} tests, not used, as they fail while their lines are looked at: {found['failed']}")
    return found


def tests_for(mutant: Mutant, source: str, found: dict[str, Any], seconds: float) -> list[str]:
    """Those of its own room first, then the quickest."""
    by_line = found["lines"].get(mutant.file, {})
    lines, at_import = statement(source, mutant.line)
    wanted = by_line.values() if at_import else [by_line.get(str(line), []) for line in lines]
    names = {name for tests in wanted for name in tests}
    room = "/".join(["tests", *mutant.file.split("/")[:-1]]).removesuffix("/gumbel_mixture") + "/"
    near = (room, *RESUMING) if room in RESUMING else (room,)
    names |= {name for name in found["starts"] if name.startswith(near)}
    mirror = f"test_{Path(mutant.file).stem}"
    quickest = defaultdict(lambda: SECONDS)
    for name in names:
        file = name.partition("::")[0]
        quickest[file] = min(quickest[file], found["seconds"].get(name, 0))

    def order(name: str) -> tuple[int, float, str, float]:  # a file's together: they share what they set up
        file = name.partition("::")[0]
        distance = 0 if mirror in file else 1 if file.startswith(room) else 3
        if name in found["starts"]:
            distance = 4 if distance else 2
        return distance, quickest[file], file, found["seconds"].get(name, 0)

    chosen, left = [], seconds
    for name in sorted(names - set(found["failed"]), key=order):
        if found["seconds"].get(name, 0) < left:
            left -= found["seconds"].get(name, 0)
            chosen.append(name)
    return chosen


def try_mutant(mutant: Mutant, found: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What became of it, and of which test."""
    path = Path("fairseq_masking", mutant.file).resolve()
    source, stat = path.read_text(encoding="utf-8"), path.stat()
    broken = mutated(source, mutant)
    chosen, begin = tests_for(mutant, source, found, seconds), time.monotonic()
    result = {**asdict(mutant), "changed": changed(source, broken), "tests": len(chosen)}
    if not chosen:
        return {**result, "end": "no test runs it", "by": "", "seconds": 0}
    with tempfile.TemporaryDirectory() as scratch:
        output, by = Path(scratch) / "output", Path(scratch) / "by"

        def attempt() -> int:
            import fork_server

            fork_server.start_servers = fork_servers  # when the first command is started
            watch = Watch(chosen)
            status = run_tests(sorted({name.partition("::")[0] for name in chosen}), watch)
            by.write_text(" ".join(watch.failed), encoding="utf-8")
            return status

        try:
            path.write_text(broken, encoding="utf-8")
            other = stat.st_mtime_ns + next(_numbers) * 10**9  # than that of any bytecode, the last mistake's, too
            os.utime(path, ns=(stat.st_atime_ns, other))
            expected = sum(found["seconds"].get(name, 0) for name in chosen)
            status = in_child(attempt, output, 60 + 8 * expected)
        finally:
            path.write_text(source, encoding="utf-8")
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        end = "survives" if status == 0 else "hangs" if status is None else "caught"
        who = by.read_text(encoding="utf-8") if by.exists() else ""
        if end == "caught" and not who:
            who = " ".join(output.read_text(encoding="utf-8", errors="replace").split()[-30:])[-200:]
    return {**result, "end": end, "by": who, "seconds": round(time.monotonic() - begin, 1)}


def begin_in(work: Path) -> None:
    """Make a copy of what git knows of, and of what is new, in which mistakes are planted, and go there."""
    shutil.rmtree(work, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, work / name)
    os.chdir(work)
    os.environ["PYTHONPATH"] = f"{work}:{work / 'fairseq_masking' / 'hydra'}"
    sys.path[:1] = [str(work), str(work / "fairseq_masking" / "hydra"), str(work / "tests")]


def import_all() -> Iterator[str]:
    """All but this package."""
    import importlib

    for name in ("pytest", "torch", "torch._dynamo", "torch.utils.data", "fairseq_cli.train", "fairseq_cli.validate",
                 "fairseq_cli.hydra_train", "hydra.core.global_hydra", "transformers", "scipy.stats", "fork_server",
                 "tokenizers", "sentencepiece", "cosmic_ray.mutating", "coverage"):  # fmt: skip
        try:
            importlib.import_module(name)
        except ImportError:
            yield name


def _read(results: Path) -> dict[str, dict[str, Any]]:
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def known(chosen: list[Mutant], results: Path) -> dict[str, dict[str, Any]]:
    """What is known of them, here and in MUTANTS.md's table: by place, or (lines move) by what it makes of one."""
    with Path(__file__).with_name("mutants.csv").open(encoding="utf-8", newline="") as file:
        by_name = {row["name"]: row for row in csv.DictReader(file)} | _read(results)
    moved = [by_name[name] for name in by_name.keys() - {mutant.name for mutant in chosen}]
    by_text = {(row["name"].partition(":")[0], row["name"].rpartition(" ")[2], row["changed"]): row for row in moved}
    found = {}
    for mutant in chosen:
        source = Path("fairseq_masking", mutant.file).read_text(encoding="utf-8")
        text = changed(source, mutated(source, mutant))
        by_place, operator = by_name.get(mutant.name), mutant.operator.removeprefix("core/")
        row = by_place if by_place and by_place["changed"] == text else by_text.get((mutant.file, operator, text))
        if row:
            found[mutant.name] = {**row, "name": mutant.name}
    return found


def main() -> int:
    """Draw, try, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, help="places")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / ".mutants", help="the copy, the map, the results")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of tests a mutant, at most")
    parser.add_argument(
        "--again", nargs="*", metavar="FILE:LINE", help="those that survived only, or these, with today's tests"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with a copy of its own")
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / f"mutants_{args.sample}_{args.seed}.jsonl"
    begin_in(folder / "work0")
    print("not there:", *import_all())
    by_place = all_mutants(Path("fairseq_masking"))
    rng = random.Random(args.seed)
    chosen = [rng.choice(by_place[place]) for place in rng.sample(sorted(by_place), min(args.sample, len(by_place)))]
    print(f"{len(chosen)} of {len(by_place)} places, {sum(map(len, by_place.values()))} mutants", flush=True)
    before = known(chosen, results)
    print(f"{len(before)} were tried before", flush=True)
    to_do = [m for m in chosen if m.name not in before]
    if args.again is not None:
        for mutant in chosen:
            named = f"{mutant.file}:{mutant.line}" in args.again
            if mutant.name in before and (named or (not args.again and before[mutant.name]["end"] in UNSEEN)):
                to_do.append(mutant)
        (folder / "map.json").unlink(missing_ok=True)
    found = make_map(folder) if to_do else {}
    workers = []
    for job in range(args.jobs):
        workers.append(os.fork())
        if workers[-1] == 0:
            if job:
                sys.path[:3] = [""]
                begin_in(folder / f"work{job}")
            for mutant in to_do[job :: args.jobs]:
                row = {"name": mutant.name, **try_mutant(mutant, found, args.seconds)}
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                told = f"{row['changed']} ({row['seconds']} s) {row['by'][:100]}"
                print(f"{row['end']}: {mutant.name}: {told}", flush=True)
            os._exit(0)
    for pid in workers:
        os.waitpid(pid, 0)
    done = known(chosen, results)
    rows = [done[mutant.name] for mutant in chosen if mutant.name in done]
    with (folder / "mutants.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, ["name", "end", "changed", "by", "tests"], extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    counts = Counter(row["end"] for row in rows)
    print(f"{len(rows)} mutants: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
