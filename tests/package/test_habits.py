"""What the repository tells people and machines to run is there: make's targets, nox's sessions, files and folders."""

import ast
import re
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[0-9]*.yml"))
FOLDERS = "csrc|lzpenalty|tests|benchmarks|docs|examples|notebooks|\\.github|\\.ci"
FACES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")]
PAGES = [*FACES, ROOT / "benchmarks/README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
PAGES = sorted(path for path in PAGES if path.exists())
CODE = [ROOT / "noxfile.py", ROOT / "pyproject.toml", *FORMS]
CODE += sorted(path for folder in ("lzpenalty", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def database():
    """What make makes of the Makefile."""
    if not shutil.which("make"):
        pytest.skip("there is no make")
    done = subprocess.run(["make", "-pRrq", "-f", "Makefile", ":"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="module")
def targets(database):
    blocks = database.partition("\n# Files\n")[2].split("\n\n")
    rules = [re.search(r"^([\w./-]+):", block, re.MULTILINE) for block in blocks if "# Not a target" not in block]
    return {rule[1] for rule in rules if rule}


@pytest.fixture(scope="module")
def made_sessions(database):
    return set(re.search(r"^SESSIONS := (.*)$", database, re.MULTILINE)[1].split())


def sessions():
    """The names of noxfile.py's sessions, and of functions that are sessions without one."""
    for function in ast.parse((ROOT / "noxfile.py").read_text()).body:
        for decorator in getattr(function, "decorator_list", []):
            if ast.unparse(decorator).startswith("nox.session"):
                names = [word.value.value for word in getattr(decorator, "keywords", []) if word.arg == "name"]
                yield names[0] if names else f"def {function.name}"


def steps(workflow):
    for job in workflow["jobs"].values():
        yield from job["steps"]


def commands(text):
    """The targets of each call of make in a shell script or a code span."""
    for call in re.findall(r"(?:^|\s|`|\|)make((?: [\w./-]+(?:=(?:\"[^\"]*\"|[^\s`]*))?)+)", text, re.MULTILINE):
        words = re.sub(r"-C \S+|\S+=(?:\"[^\"]*\"|\S*)", "", call).split()
        yield from (word for word in words if not word.startswith("-") and word == word.lower())


def test_every_session_is_a_target(made_sessions, targets):
    assert sorted(sessions()) == sorted(made_sessions)
    assert made_sessions <= targets


def test_targets_are_told_from_other_files(targets):
    assert {"test", "lint", "gpu-report", "sanitize", "test-vllm"} <= targets
    assert not {"setup.py", "csrc/lz/match.h"} & targets


def test_commands():
    assert list(commands('run `make test-numpy NUMPY="1 2"` or `make -C x wheel`, `make test-NAME`')) == [
        "test-numpy",
        "wheel",
    ]
    assert list(commands("make it so\n  sudo make lint docs\n")) == ["it", "so", "lint", "docs"]
    assert list(commands("it makes sense, cmake y")) == []


@pytest.mark.parametrize("path", [*PAGES, *CODE], ids=name_of)
def test_targets_that_texts_name(path, targets):
    spans = re.findall(r"(?<!`)`((?:[A-Z_]+=\S+ )*make [^`\n]*)`", path.read_text())
    if path.suffix == ".md":
        spans += re.findall(
            r"^(?:\$ )?(make [^#\n]*)", "\n".join(re.findall(r"```.*?```", path.read_text(), re.DOTALL)), re.MULTILINE
        )
    assert {word for span in spans for word in commands(span)} <= targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_targets_that_workflows_name(path, targets):
    workflow = yaml.safe_load(path.read_text())
    assert {word for step in steps(workflow) for word in commands(step.get("run", ""))} <= targets
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        named = [*matrix.get("target", []), *(entry["target"] for entry in matrix.get("include", []) if "target" in entry)]
        assert set(named) <= targets
        assert len(set(named)) == len(named)


def test_what_continuous_integration_runs(targets):
    assert list(commands((ROOT / ".ci/run").read_text().partition("exec")[2])) == ["test"]


def test_a_workflow_runs_every_test(made_sessions):
    texts = "".join(path.read_text() for path in WORKFLOWS)
    told = {name for name in made_sessions if re.search(rf"(make|-|target:) {name}\b", texts)}
    others = {"bench-vllm", "test-wheel", "wheel"}  # measured by hand; what cibuildwheel does for each wheel
    assert {name for name in made_sessions - told if not name.startswith("bench-")} <= others


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_paths_that_texts_name(path):
    text = path.read_text()
    named = re.findall(rf"`((?:{FOLDERS})/[\w./*-]*)`", text)
    assert [name for name in named if "NAME" not in name and not any(ROOT.glob(name.rstrip("/")))] == []
    links = re.findall(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_paths_that_sessions_name():
    for node in ast.walk(ast.parse((ROOT / "noxfile.py").read_text())):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(rf"(?:{FOLDERS})/[\w./-]+", node.value)
        ):
            assert (ROOT / node.value).exists(), node.value


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_paths_that_workflows_watch(path):
    workflow = yaml.safe_load(path.read_text())
    triggers = workflow[True]  # `on`, which YAML 1.1 takes for a truth value
    watched = [
        name
        for trigger in triggers.values()
        for name in (trigger or {} if isinstance(trigger, dict) else {}).get("paths", [])
    ]
    assert [name for name in watched if not any(ROOT.glob(name))] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_may_do_little_and_end(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 180


def test_actions_are_pinned_and_agree():
    pins = {}
    for path in WORKFLOWS:
        for use in re.findall(r"uses: (.*)", path.read_text()):
            action, commit, version = re.fullmatch(r"([\w/-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", use).groups()
            assert pins.setdefault(action, (commit, version)) == (commit, version)
    assert len(pins) >= 8


def test_hooks_have_one_version_of_each_tool():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    tools = {}
    for hook in repository["hooks"]:
        for dependency in hook.get("additional_dependencies", []):
            tool, _, version = dependency.partition("==")
            assert version and tools.setdefault(tool, version) == version
        assert hook["entry"].split()[0] in {*tools, "sh"}


@pytest.mark.parametrize("path", FORMS, ids=name_of)
def test_issue_forms(path):
    form = yaml.safe_load(path.read_text())
    assert set(form) == {"name", "description", "labels", "body"}
    names = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(set(names)) == len(names) >= 3
    for field in form["body"]:
        assert field["type"] in {"markdown", "textarea", "input", "checkboxes"}
        assert field["type"] == "markdown" or field["attributes"]["label"]


def test_a_bug_comes_with_the_doctor():
    (bug,) = [path for path in FORMS if "bug" in path.name]
    assert "`lzpenalty doctor`" in bug.read_text()


def test_the_makefile_stays_short():
    assert len((ROOT / "Makefile").read_text().splitlines()) <= 150


def test_no_module_of_the_tests_hides_an_installed_one():
    """pytest puts the tests' folders before all others."""
    tests = ROOT / "tests"
    others = [path for path in sys.path if not Path(path).resolve().is_relative_to(tests)]
    names = {path.stem for path in tests.rglob("*.py")} - {"__init__"}
    assert [name for name in sorted(names) if PathFinder.find_spec(name, others)] == []
