"""What an entry of the list of weights says: :class:`Weight` and its files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """One file of a weight.

    Attributes:
        path: where it lies under the weights folder.
        urls: addresses it can be fetched from, in order of preference; empty where it must be had by hand.
        size: exact size in bytes.
        sha256: the SHA-256 in hexadecimal, or its leading digits.
    """

    path: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Weight:
    """A weight: one file, or a folder of files as diffusers and transformers save them.

    Attributes:
        name: what options, errors and ``lafr weights`` call it.
        path: the file or folder under the weights folder.
        files: all its files.
        purpose: what uses it.
        licence: terms of the weights as their origin states them.
        origin: page to read about it.
        hub: hub ids (``owner/name``, or ``owner/name/subfolder``) whose local cache is looked in.
        other_names: file names that other projects give to an equivalent file.
        by_hand: how to obtain it where it cannot be fetched.
        about: approximate size in bytes where the files' exact sizes are not known.
    """

    name: str
    path: str
    files: tuple[RemoteFile, ...]
    purpose: str
    licence: str | None
    origin: str
    hub: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()
    by_hand: str | None = None
    about: int | None = None

    @property
    def size(self) -> int | None:
        """Size of all files in bytes, exact or about; None where unknown."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else self.about

    @property
    def can_fetch(self) -> bool:
        """Whether every file has an address."""
        return all(file.urls for file in self.files)


def single_file(
    name: str,
    url: str,
    purpose: str,
    licence: str | None,
    origin: str,
    size: int | None = None,
    sha256: str | None = None,
    other_names: tuple[str, ...] = (),
) -> Weight:
    """Return a weight of one file that can be fetched, named as in its address."""
    path = url.rsplit("/", 1)[1]
    file = RemoteFile(path, (url,), size, sha256)
    return Weight(name, path, (file,), purpose, licence, origin, other_names=other_names)
