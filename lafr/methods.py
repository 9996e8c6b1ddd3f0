"""What a method of a comparison is called and where it comes from: ``mini``, ``gfpgan:PATH``, ``NAME=FOLDER``, ...

The same texts name networks everywhere: ``lafr compare --methods``, ``lafr restore --model``, ``LAFRer(model=...)``.

| text | method |
| --- | --- |
| ``mini`` | the bundled network |
| FOLDER | a network that was trained here, deployed: config.json and model.safetensors |
| ``osediff:FOLDER`` | the same, called osediff |
| ``gfpgan:PATH``, ``codeformer:PATH``, ``restoreformer:PATH``, ``restoreformer++:PATH`` | a published checkpoint |
| ``osdface:FOLDER`` | OSDFace's published files, on Stable Diffusion 2.1-base |
| ``gfpgan``, ``osdface``, ... | the checkpoint that ``lafr weights`` lists |
| ``bicubic`` | the face as it came, enlarged |
| ``NAME=FOLDER`` | results of any other method: a folder of images |
| ``NAME=METHOD`` | any of the above under another name |

Options follow a comma: ``codeformer:PATH,w=0.7`` (fidelity weight), ``gfpgan:PATH,noise=0`` (the checkpoint's noise in
place of random one: the same result each time), ``bicubic,size=256``, ``FOLDER,pixel=1,semantic=0.5`` (strengths of the
two LoRAs of a network that has such: 1 as trained, 0 for none).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lafr_arch.baselines import BASELINES, BaselineSpec
from lafr_base import weights
from lafr_base.files import digest, file_digest

STRENGTHS = ("pixel", "semantic")
"""Options of a network's folder: strengths of the two LoRAs that stage 2 may have trained."""

MODELS = {"mini": Path(__file__).parent / "pretrained" / "mini"}
"""Networks that come with the package, by name."""


def _syntax() -> str:
    baselines = (name if spec.weights is None else f"{name}[:PATH]" for name, spec in BASELINES.items())
    own = f"{', '.join(MODELS)}, a folder with config.json, osediff:FOLDER"
    return f"{own}, {', '.join(baselines)}, NAME=FOLDER of results, or NAME=METHOD"


class MethodError(ValueError):
    """A text that names no method."""


@dataclass(frozen=True)
class MethodSpec:
    """One method of a comparison.

    Attributes:
        name: heading of its column and name of its folder of results; no slash, no space.
        kind: ``lafr``, ``results``, or a name of `lafr_arch.baselines.BASELINES`.
        path: folder or checkpoint, which exists; None for ``bicubic``.
        options: ``w`` of ``codeformer``, 0 to 1; ``noise`` of ``gfpgan``, 0 or 1; ``size`` of ``bicubic``, side of its
            faces in pixels; ``pixel`` and ``semantic`` of ``lafr``, strengths of its two LoRAs.
    """

    name: str
    kind: str
    path: Path | None = None
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_network(self) -> bool:
        """Whether `lafr.networks.load_network` can load it; otherwise it is a folder of results."""
        return self.kind != "results"


def parse_method(text: str) -> MethodSpec:
    """Read what a method is from its text (see the module's table) and check that its files exist.

    Raises:
        MethodError: not such a text.
        FileNotFoundError: a folder or checkpoint is not there.
        lafr_base.weights.MissingWeightsError: a baseline was named without a path, and its weight is not there.
    """
    name, spec = _split_name(text)
    head, colon, rest = spec.partition(":")
    kind = head if colon else spec.partition(",")[0]
    baseline = BASELINES.get(kind)
    if baseline is not None and (baseline.weights is not None or not colon):
        found = _baseline(baseline, rest if colon else spec.removeprefix(kind), colon != "", text)
    elif kind == "osediff" and colon:
        found = replace(_folder(rest, None, text), name=kind)
    elif spec in MODELS:
        found = MethodSpec(spec, "lafr", MODELS[spec])
    else:
        found = _folder(spec, name, text)
    return found if name is None else replace(found, name=name)


def network_files(text: str) -> str:
    """Return a digest of the files of the network that a text names, which changes when they do.

    Files of more than 64 MB count by name and size alone, since reading them would take as long as loading them.

    Raises:
        as `parse_method`.
    """
    path = parse_method(text).path
    if path is None:
        return ""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return digest(
        *[[file.name, size := file.stat().st_size, file_digest(file) if size < 1 << 26 else ""] for file in files]
    )


def _split_name(text: str) -> tuple[str | None, str]:
    """Split off ``NAME=``; a path or option that contains "=" is no name."""
    match = re.fullmatch(r"([\w.+-]+)=(.+)", text, re.DOTALL)
    return (None, text) if match is None else (match[1], match[2])


def _split_options(text: str, whole: str) -> tuple[str, dict[str, float]]:
    """Split ``PATH,KEY=NUMBER,KEY=NUMBER``; commas before the first such option belong to the path."""
    match = re.search(r"((?:,[a-z]+=[^,/]*)*)$", text)
    tail = "" if match is None else match[1]
    options: dict[str, float] = {}
    for item in tail.split(",")[1:]:
        key, _, value = item.partition("=")
        try:
            options[key] = float(value)
        except ValueError as error:
            raise MethodError(f"method {whole!r}: {key} must be a number; got {value!r}") from error
    return text.removesuffix(tail), options


def _baseline(baseline: BaselineSpec, rest: str, with_path: bool, text: str) -> MethodSpec:
    name, options = _split_options(rest, text)
    try:
        baseline.check(options)
    except ValueError as error:
        raise MethodError(f"method {text!r}: {error}") from error
    path = None
    if with_path:
        path = weights.find(name) if name else None
        if path is None or not (path.is_dir() if baseline.folder else path.is_file()):
            kind = "folder" if baseline.folder else "file"
            raise FileNotFoundError(
                f"method {text!r}: the {kind} {name} does not exist; {baseline.name} "
                f"alone stands for the published one, of which `lafr weights {baseline.weights}` tells"
            )
    elif baseline.weights is not None:
        path = weights.require(baseline.weights)
    return MethodSpec(baseline.name, baseline.name, path, options)


def _folder(spec: str, name: str | None, text: str) -> MethodSpec:
    folder = Path(spec).expanduser()
    options: dict[str, float] = {}
    if not folder.is_dir():  # a name may have commas
        path, options = _split_options(spec, text)
        folder = Path(path).expanduser()
    unknown = [key for key in options if key not in STRENGTHS]
    if unknown:
        raise MethodError(f"method {text!r}: {unknown[0]} is unknown; a network's folder takes {', '.join(STRENGTHS)}")
    if (folder / "config.json").is_file():
        return MethodSpec(re.sub(r"[^\w.+-]", "_", folder.resolve().name), "lafr", folder, options)
    if name is not None and folder.is_dir():
        return MethodSpec(name, "results", folder)
    raise FileNotFoundError(f"method {text!r}: {folder / 'config.json'} does not exist; pass one of {_syntax()}")
