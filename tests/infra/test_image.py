"""The Dockerfile: what it is made of, as whom it runs, and that its commands exist."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from tests.infra.command_lines import check_dropmill

_PROJECT = Path(__file__).resolve().parents[2]
_INFRA = _PROJECT / "infra"


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Name of a stage to its instructions, in the order of the file."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "Dockerfile").write_text((_INFRA / "Dockerfile").read_text())
    found: dict[str, list[tuple[str, str]]] = {}
    for line in DockerfileParser(str(folder)).structure:
        if line["instruction"] == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", line["value"]).groups()
            found[name] = [("FROM", base)]
        elif found:
            found[name].append((line["instruction"], line["value"]))
    return found


def _ancestors(stages, name):
    """The stage and those it is built on, the last first."""
    while name in stages:
        yield name
        name = stages[name][0][1]


def test_both_images_end_as_a_user_without_rights_by_number(stages):
    for name in ("cpu", "gpu"):
        users = [value for kind, value in stages[name] if kind == "USER"]
        assert users == ["10001:10001"]
        copied_later = [kind for kind, _ in stages[name][stages[name].index(("USER", users[0])) :]]
        assert not {"RUN", "COPY", "ADD"} & set(copied_later)


def test_images_hold_no_compilers_caches_or_sources(stages):
    for name in ("cpu", "gpu"):
        chain = list(_ancestors(stages, name))
        assert "build" not in chain
        copies = [value for stage in chain for kind, value in stages[stage] if kind == "COPY"]
        assert copies == [f"--from=install-{name} /opt/dropmill /opt/dropmill"]


def test_every_package_is_taken_from_the_lock_with_its_hash(stages):
    for name in ("cpu", "gpu"):
        runs = [value for kind, value in stages[f"packages-{name}"] if kind == "RUN"]
        assert len(runs) == 1
        assert "--constraint requirements.lock" in runs[0]
        assert "--require-hashes" in runs[0]
        assert "--no-deps" in runs[0]
    for stage in stages:
        for kind, value in stages[stage]:
            if kind == "RUN" and " install " in value and "apt-get" not in value:
                pinned = re.findall(r"^\s*pip install (?:--\S+ )*(.*)", value)
                assert all("==" in word for words in pinned for word in words.split())
                assert (
                    pinned or "--require-hashes" in value or "--no-index" in value or "install --dir" in value
                )


def test_extras_of_the_images_exist_and_the_lock_holds_them(stages):
    extras = tomllib.loads((_PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {
        name: set(re.findall(r"--extra (\S+)", dict(stages[f"packages-{name}"])["RUN"]))
        for name in ("cpu", "gpu")
    }
    assert wanted["cpu"] < wanted["gpu"] <= set(extras)
    assert "train" not in wanted["cpu"]
    locked = set(re.findall(r"^([\w.-]+)==", (_PROJECT / "requirements.lock").read_text(), re.MULTILINE))
    for extra in wanted["gpu"]:
        names = {re.match(r"[\w.-]+", line)[0].lower() for line in extras[extra]}
        assert names <= locked


def test_the_wheel_in_the_image_has_every_package_of_the_project(stages):
    copied = {value.split()[0] for kind, value in stages["wheel"] if kind == "COPY"}
    project = tomllib.loads((_PROJECT / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages <= copied
    allowed = {
        line.removeprefix("!")
        for line in (_INFRA / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    everything = {word for stage in ("build", "wheel") for kind, value in stages[stage] if kind == "COPY"
                  for word in value.split()[:-1]}  # fmt: skip
    assert everything == allowed
    assert all((_PROJECT / name).exists() for name in everything)


def test_no_base_image_floats(stages):
    text = (_INFRA / "Dockerfile").read_text()
    (tag,) = re.findall(r"^ARG PYTHON_TAG=(\S+)$", text, re.MULTILINE)
    assert re.fullmatch(r"3\.11\.\d+-slim-\w+", tag)
    outside = {content[0][1] for content in stages.values()} - set(stages)
    assert outside == {"python:${PYTHON_TAG}"}


def test_what_an_image_runs_by_default_is_a_command_of_ours(stages):
    for name in ("cpu", "gpu"):
        does = dict(stages[name])
        assert json.loads(does["ENTRYPOINT"]) == ["dropmill"]
        check_dropmill(json.loads(does["CMD"]))
