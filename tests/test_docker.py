"""The Dockerfile names files, packages and flags that exist, as far as that can be told without Docker."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex

import pytest

from conftest import ROOT
from lafr.cli import build_parser


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments on one line; comments are left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def arguments(kind: str) -> list[str]:
    return [text for name, text in instructions() if name == kind]


def test_instructions_are_docker_s() -> None:
    known = {"FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} <= known
    assert instructions()[0][0] == "FROM"


def test_what_is_copied_is_there_and_sent() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line]
    assert rules[0] == "*"
    sent = [rule[1:].rstrip("/") for rule in rules if rule.startswith("!")]
    copied = [source for text in arguments("COPY") for source in shlex.split(text)[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, rule) for rule in sent), source


def test_every_package_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("setuptools")
    from distutils.core import run_setup

    monkeypatch.chdir(ROOT)
    distribution = run_setup("setup.py", stop_after="init")
    copied = {source for text in arguments("COPY") for source in shlex.split(text)[:-1]}
    needed = {name.split(".")[0] for name in distribution.packages} - {"lafr_data"} | {"data"}
    assert needed <= copied
    (extras,) = (match[1] for text in arguments("RUN") if (match := re.search(r"/opt/lafr\[([^]]*)\]", text)))
    assert {"ui", "video"} == set(extras.split(",")) <= distribution.extras_require.keys()
    base = re.fullmatch(r"python:(3\.\d+)-slim-bookworm", arguments("FROM")[0])
    assert base is not None
    least = re.search(r"(\d+\.\d+)", distribution.python_requires)
    assert least is not None
    assert tuple(map(int, base[1].split("."))) >= tuple(map(int, least[1].split(".")))


def test_it_starts_the_page() -> None:
    assert json.loads(arguments("ENTRYPOINT")[0]) == ["lafr"]
    command = json.loads(arguments("CMD")[0])
    args = build_parser().parse_args(command)
    assert (args.command, args.host, args.no_browser) == ("ui", "0.0.0.0", True)
    assert str(args.port) == arguments("EXPOSE")[0]
    check = json.loads(arguments("HEALTHCHECK")[0].split("CMD ")[1])
    compile(check[2], "health", "exec")
    assert f":{args.port}'" in check[2]


def test_one_argument_tells_cpu_from_gpu() -> None:
    assert arguments("ARG") == ["TORCH=cpu"]
    (line,) = (text for text in arguments("RUN") if "torchvision" in text)
    assert '--index-url "https://download.pytorch.org/whl/${TORCH}"' in line
    assert re.search(r"--build-arg TORCH=cu\d+", (ROOT / "Dockerfile").read_text("utf-8"))


def test_it_does_not_run_as_root() -> None:
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert not any(name == "RUN" for name in names[names.index("USER") :])
