"""The list of licences is complete, and says what the installed packages say of themselves."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
NOT_SHIPPED = {"test", "dev"}
"""Extras for working on the package."""


def named(requirements: list[str]) -> set[str]:
    names = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {normal(name[0]) for name in names if name} - {"negprompt"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


LICENCES: dict[str, dict[str, str]] = yaml.safe_load(
    (Path(__file__).parent / "licences.yaml").read_text(encoding="utf-8")
)
PROJECT = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]


def test_every_direct_dependency_is_listed_and_no_other() -> None:
    assert {normal(name) for name in LICENCES["dependencies"]} == named(PROJECT["dependencies"])
    optional = [r for extra, rs in PROJECT["optional-dependencies"].items() if extra not in NOT_SHIPPED for r in rs]
    assert {normal(name) for name in LICENCES["optional"]} == named(optional) - named(PROJECT["dependencies"])


@pytest.mark.parametrize("name", [name for part in LICENCES.values() for name in part])
def test_a_licence_is_what_the_package_says(name: str) -> None:
    listed = {**LICENCES["dependencies"], **LICENCES["optional"]}[name]
    try:
        facts = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    classifiers = [c.split("::")[-1] for c in facts.get_all("Classifier") or () if c.startswith("License")]
    texts = [facts.get("License-Expression") or "", facts.get("License") or "", *classifiers]
    family = re.split(r"[-\d]", listed)[0]
    # Before version 11 Pillow gave the same text the name of its ancestor.
    said = " ".join(texts).replace("Python Software Foundation", "PSF").replace("HPND", "MIT-CMU")
    if not said.strip():
        files = [file for file in metadata.files(name) or () if "licen" in str(file).lower()]
        said = " ".join(file.read_text(encoding="utf-8") for file in files).replace("Redistribution and use", "BSD")
    assert family in said, said[:300]
