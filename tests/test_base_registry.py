"""Registries: names found by importing modules, what is said of unknown ones, and arguments that options override."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lafr_base.registry import Registry, UnknownNameError


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Of a package with two modules that register, one that does not, and one that looks for another's name."""
    package = tmp_path / "toys"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from lafr_base.registry import Registry\nTOYS = Registry('toy', 'toys', '_toy')\n"
    )
    register = "from toys import TOYS\n@TOYS.register()\ndef {}(size, colour='red'): return size, colour\n"
    (package / "a_toy.py").write_text(register.format("ball") + "TOYS.get('kite')\n")
    (package / "b_toy.py").write_text(register.format("kite"))
    (package / "other.py").write_text("raise RuntimeError('not asked for')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "toys"]:
        monkeypatch.delitem(sys.modules, name)
    import toys

    return toys.TOYS


def test_names_are_found_in_the_packages_modules(registry: Registry):
    assert "toys.b_toy" not in sys.modules
    assert registry["kite"](3) == (3, "red")
    assert list(registry) == ["ball", "kite"]
    assert len(registry) == 2


def test_unknown_names_are_told_with_the_nearest(registry: Registry):
    assert "kit" not in registry
    assert registry.get("kit") is None
    with pytest.raises(UnknownNameError, match=r"^no toy is called 'kit'; did you mean `kite`\?; known: ball, kite$"):
        registry["kit"]
    with pytest.raises(ValueError, match="no toy is called ''"):
        registry.build({"size": 1})


def test_options_override_defaults(registry: Registry):
    assert registry.build({"type": "ball", "size": 1}, size=2, colour="blue") == (1, "blue")
    with pytest.raises(TypeError, match="weight"):
        registry.build({"type": "ball", "size": 1, "weight": 2})


def test_a_name_is_given_once(registry: Registry):
    def ball() -> None: ...

    assert "ball" in registry
    add = registry.register()
    with pytest.raises(ValueError, match="two toys called ball"):
        add(ball)
    registry.register("round")(ball)
    assert registry["round"] is ball


def test_a_module_that_fails_is_tried_again(registry: Registry, tmp_path: Path):
    (tmp_path / "toys" / "c_toy.py").write_text("raise RuntimeError('broken')\n")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            list(registry)
    (tmp_path / "toys" / "c_toy.py").unlink()
    assert set(registry) == {"ball", "kite"}
