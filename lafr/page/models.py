"""The networks that the page offers, each loaded at its first use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lafr.choice import FaceChoice, FoundFace, Wishes
from lafr.methods import MethodError, parse_method
from lafr.restorer import LAFRer
from lafr.results import RestoredPhoto
from lafr_arch.baselines import BASELINES
from lafr_base import weights

_NOBODY = Wishes(choice=FaceChoice(numbers=frozenset()))


def offered(asked: Sequence[str]) -> list[str]:
    """Return the models to offer: those asked for, else the bundled one and the published ones that are found.

    Raises:
        lafr.methods.MethodError, FileNotFoundError, lafr_base.weights.MissingWeightsError: one asked for is not there.
    """
    for model in asked:
        if not parse_method(model).is_network:
            raise MethodError(f"--model {model}: a folder of results; a network is needed here")
    published = (name for name, spec in BASELINES.items() if spec.weights and weights.find(spec.weights) is not None)
    return list(asked) or ["mini", *published]


class Models:
    """Loads networks and runs them, one at a time: they share the machine's memory and cores.

    Args:
        names: what `lafr.methods` calls them, the first for choice.
        device: see `lafr.LAFRer`, as for what follows.
        detection_model: one detector for all.
        batch_size: most faces at once.
        detection_threshold: see `lafr.LAFRer`, as for what follows.
        engine: what runs the networks.
    """

    def __init__(
        self,
        names: Sequence[str],
        device: str = "auto",
        detection_model: str = "auto",
        batch_size: int = 8,
        detection_threshold: float | None = None,
        engine: str = "auto",
    ) -> None:
        self.names = list(names)
        self._options = {"device": device, "batch_size": batch_size, "engine": engine}
        self._detection = {"detection_model": detection_model, "detection_threshold": detection_threshold}
        self._loaded: dict[str, LAFRer] = {}
        self._loading, self._running = threading.RLock(), threading.Lock()

    def get(self, name: str) -> LAFRer:
        """Return a network, loaded.

        Raises:
            ValueError: the page does not offer it.
        """
        if name not in self.names:
            raise ValueError(f"the model {name} is not offered here; choose one of {', '.join(self.names)}")
        with self._loading:
            if name not in self._loaded:
                first = next(iter(self._loaded.values()), None)
                detection = self._detection if first is None else {"detection_model": first.steps.detector}
                options = {**self._options, **detection}
                self._loaded[name] = LAFRer(model=name, **options)  # type: ignore[arg-type]
            return self._loaded[name]

    def find_faces(self, result: RestoredPhoto) -> list[FoundFace]:
        """Find the faces of a photo that was read, left to right."""
        steps = self.get(self.names[0]).steps
        with self._running:
            return steps.search(result, _NOBODY).or_raise().found

    def reference(self, path: str | Path) -> np.ndarray:
        """Return the embedding of the largest face of a photo; see `lafr.steps.PhotoSteps.reference`.

        Raises:
            ValueError: it has no face, or cannot be read.
        """
        steps = self.get(self.names[0]).steps
        with self._running:
            return steps.reference(path)

    def run(self, name: str, result: RestoredPhoto, places: Sequence[int]) -> list[np.ndarray]:
        """Run a network over some of a photo's crops: (S, S, 3) float32 BGR each.

        Raises:
            Exception: whatever kept it from doing so.
        """
        steps = self.get(name).steps
        with self._running:
            outputs = steps.restore([(result, place) for place in places], 0.5)
        result.or_raise()
        return [output for output in outputs if output is not None]
