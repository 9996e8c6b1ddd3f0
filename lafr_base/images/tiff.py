"""TIFF files (Adobe, revision 6.0, and BigTIFF): only the first page is left, as a plain picture."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from lafr_base.images.budget import MAX_PIXELS
from lafr_base.images.photo import ImageError

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_ORIENTATION = 0x0112
_SUBFILE_TYPE = 0x00FE
_DNG_VERSION = 0xC612
_COMPRESSION = 0x0103
_DEFLATE = (8, 32946)
_OFFSETS = {0x0111: 0x0117, 0x0144: 0x0145}  # of strips or tiles, and where their lengths are
_SUB_DIRECTORIES = frozenset({0x8769, 0x8825, 0xA005})  # EXIF, GPS, interoperability
_UNUSED = 0xFDE8  # a private tag
_SIZES = {1: 1, 3: 2, 4: 4, 16: 8}


@dataclass
class Tiff:
    """What is known of a TIFF file's first page.

    Attributes:
        data: the file with that page alone, its orientation set to upright, without EXIF and GPS data. Pillow would
            turn the pixels, count all pages and read the metadata before it gives pixels; OpenCV turns some
            orientations and fails on others.
        orientation: 1 to 8.
        several: whether more pages follow.
    """

    data: bytes
    orientation: int = 1
    several: bool = False


@dataclass
class _Entry:
    tag: int
    type: int
    count: int
    position: int


def first_page(data: bytes, name: str) -> Tiff:
    """Read the directory of the first page, and check what of its pixels has a checksum.

    Raises:
        ImageError: a camera's raw file, whose first page is only a preview; or damaged pixels.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    number, entry_size = ("Q", 20) if big else ("I", 12)
    try:
        (start,) = struct.unpack_from(order + number, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        start += 8 if big else 2
        if count > 4096:
            return Tiff(data)
        entries: dict[int, _Entry] = {}
        for position in range(start, start + entry_size * count, entry_size):
            tag, kind, values = struct.unpack_from(f"{order}HH{number}", data, position)
            entries.setdefault(tag, _Entry(tag, kind, values, position))
        end = start + entry_size * count
        (following,) = struct.unpack_from(order + number, data, end)
        file = _File(data, order, number)
        orientation = file.first(entries.get(_ORIENTATION), 1)
        if _DNG_VERSION in entries or file.first(entries.get(_SUBFILE_TYPE), 0) & 1 or data[8:10] == b"CR":
            raise ImageError(f"{name}: a camera's raw file, or a preview; export the photo as JPEG, TIFF or PNG")
        if file.first(entries.get(_COMPRESSION), 1) in _DEFLATE:
            _check_deflate(file, entries, name)
    except struct.error:
        return Tiff(data)  # the decoder says what is wrong
    plain = bytearray(data)
    struct.pack_into(order + number, plain, end, 0)
    for tag, entry in entries.items():
        if tag == _ORIENTATION:
            struct.pack_into(order + "HH", plain, entry.position + 2, 3, 1)
            plain[entry.position + 4 : entry.position + entry_size] = struct.pack(f"{order}{number}H", 1, 1).ljust(
                entry_size - 4, b"\0"
            )
        elif tag in _SUB_DIRECTORIES:
            struct.pack_into(order + "H", plain, entry.position, _UNUSED)
    return Tiff(bytes(plain), orientation, following != 0)


@dataclass
class _File:
    data: bytes
    order: str
    number: str

    def values(self, entry: _Entry | None) -> list[int]:
        """Return an entry's whole numbers; none where it has another type."""
        if entry is None or entry.type not in _SIZES:
            return []
        inline = struct.calcsize(self.order + self.number)
        place = entry.position + 4 + inline
        if entry.count * _SIZES[entry.type] > inline:
            (place,) = struct.unpack_from(self.order + self.number, self.data, place)
        if entry.count * _SIZES[entry.type] > len(self.data):
            return []
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}[entry.type]
        return list(struct.unpack_from(f"{self.order}{entry.count}{code}", self.data, place))

    def first(self, entry: _Entry | None, default: int) -> int:
        values = self.values(entry)
        return values[0] if values else default


def _check_deflate(file: _File, entries: dict[int, _Entry], name: str) -> None:
    left = 8 * MAX_PIXELS  # bytes: more is refused later on, and not worth the time
    for offsets, lengths in _OFFSETS.items():
        pairs = zip(file.values(entries.get(offsets)), file.values(entries.get(lengths)), strict=False)
        for offset, length in pairs:
            inflate = zlib.decompressobj()
            part = file.data[offset : offset + length]
            try:
                while part and not inflate.eof and left > 0:
                    left -= len(inflate.decompress(part, 1 << 20))
                    part = inflate.unconsumed_tail
            except zlib.error as error:
                what = f"damaged: the pixels at byte {offset:,} differ from their checksum ({error})"
                raise ImageError(f"{name}: {what}; copy or download it again") from error
