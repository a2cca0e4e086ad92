"""What a make target imports is declared for that target: none works only because another ran before it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"app", "tests", "benchmarks", "scripts"}
INSTALLED = packages_distributions()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL: dict[str, list[str]] = PROJECT["optional-dependencies"]
# Their tests run after `pip install` of something more than the development lock.
APART = {"deploy": "requirements-deploy.in", "browser": "requirements-browser.in", "system": "requirements-browser.in"}


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _declared(*requirements: str) -> set[str]:
    return {_name(line) for line in requirements}


def _lines(file: str) -> list[str]:
    return [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]


PRODUCT = _declared(*PROJECT["dependencies"])
DEVELOPMENT = PRODUCT | _declared(*OPTIONAL["dev"])


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def _undeclared(files: list[Path], declared: set[str]) -> list[str]:
    """Imports, with their files, of what no declared requirement brings; at least one file is read."""
    assert files
    return sorted(
        f"{file.relative_to(ROOT)}: {module}"
        for file in files
        for module in set(_imported(file)) - sys.stdlib_module_names - OURS
        if not declared & _declared(*INSTALLED.get(module, [module]))
    )


def _tests(apart: str | None) -> list[Path]:
    """The tests that run in one target: those in folder `apart`, or those in no folder of APART."""
    inside = [(file, file.relative_to(ROOT / "tests").parts[0]) for file in (ROOT / "tests").rglob("*.py")]
    return [file for file, folder in inside if (folder == apart if apart else folder not in APART)]


def test_the_product_imports_only_what_it_requires() -> None:
    optional = PRODUCT | _declared(*OPTIONAL["dashboards"])
    assert _undeclared(list((ROOT / "app" / "dashboards").rglob("*.py")), optional) == []
    files = [file for file in (ROOT / "app").rglob("*.py") if "dashboards" not in file.parts]
    assert _undeclared(files, PRODUCT) == []


def test_make_test_and_soak_import_only_what_they_install() -> None:
    assert _undeclared(_tests(None), DEVELOPMENT) == []


@pytest.mark.parametrize("folder", APART)
def test_the_other_checks_import_only_what_they_install(folder: str) -> None:
    assert _undeclared(_tests(folder), DEVELOPMENT | _declared(*_lines(APART[folder]))) == []


def test_the_measurements_import_only_what_they_install() -> None:
    files = list((ROOT / "benchmarks").rglob("*.py"))
    assert _undeclared(files, DEVELOPMENT | _declared(*_lines("requirements-bench.in"))) == []


def test_an_undeclared_import_is_found() -> None:
    assert _undeclared([Path(__file__)], DEVELOPMENT - {"pytest"}) == ["tests/unit/test_requirements.py: pytest"]
