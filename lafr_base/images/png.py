"""PNG files (ISO/IEC 15948): every part of the picture is checked by its checksum, which Pillow does not do."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from lafr_base.images.budget import check_size
from lafr_base.images.photo import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# What a picture needs. Everything else that is known may be damaged or missing.
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_METADATA_CHUNKS = frozenset({b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
_OTHER_CHUNKS = frozenset(
    b"cHRM gAMA sBIT sRGB cICP mDCV cLLI bKGD hIST pHYs sPLT tIME acTL fcTL fdAT oFFs pCAL sCAL gIFg gIFx sTER".split()
)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_END = b"\0\0\0\0IEND\xaeB`\x82"
# One gray pixel, so that Pillow reads the metadata of a file whose picture is left out.
_TINY_HEADER = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
_TINY_PIXEL = zlib.compress(b"\0\0")


@dataclass
class Png:
    """A PNG file, taken apart.

    Attributes:
        pixels: a PNG file of the picture alone, whose checksums are right.
        metadata: a PNG file of one pixel with what else was there.
        animated: whether more frames follow.
        rows: how many rows of pixels are there; None where all are.
        left_out: kinds of damaged chunks that are not part of the picture.
    """

    pixels: bytes
    metadata: bytes
    animated: bool = False
    rows: int | None = None
    left_out: tuple[str, ...] = ()


@dataclass
class _Chunk:
    kind: bytes
    raw: memoryview
    position: int
    whole: bool
    sound: bool

    @property
    def body(self) -> memoryview:
        return self.raw[8:-4] if self.whole else self.raw[8:]


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def take_apart(data: bytes, name: str) -> Png:
    """Check a PNG file and take it apart.

    A file that is cut short keeps the rows that are there; those missing are 0.

    Raises:
        ImageError: a part of the picture is damaged, or no row of it is there; or see
            `lafr_base.images.budget.check_size`.
    """
    pixels, metadata, left_out, animated, cut = [], [], set(), False, True
    for part in _chunks(data):
        if part.kind in _PIXEL_CHUNKS:
            if not part.sound and (part.whole or part.kind != b"IDAT"):
                raise _damaged(name, f"chunk {part.kind.decode()} at byte {part.position:,} differs from its checksum")
            pixels.append(part)
            if part.kind == b"IEND":
                cut = False
                break
        elif not part.sound and part.kind not in _METADATA_CHUNKS | _OTHER_CHUNKS:
            raise _damaged(name, f"at byte {part.position:,} there should be a chunk")
        elif not part.sound:
            left_out.add(part.kind.decode())
        elif part.kind in _METADATA_CHUNKS:
            metadata.append(part.raw)
        animated = animated or part.kind == b"acTL"
    if not pixels or pixels[0].kind != b"IHDR" or len(pixels[0].body) != 13:
        raise _damaged(name, "it does not begin with a header")
    header = struct.unpack(">IIBBBBB", pixels[0].body)
    check_size(name, "PNG", header[0], header[1], len(data), header[2] == 16)
    rows = None
    if cut:
        if data.endswith(_END):
            raise _damaged(name, "a chunk is longer than what is left of the file")
        stream = b"".join(part.body for part in pixels if part.kind == b"IDAT")
        stream, rows = _complete(stream, header, name)
    kept = pixels if not cut else [part for part in pixels if part.kind not in (b"IDAT", b"IEND")]
    picture: list[bytes | memoryview] = [SIGNATURE, *(part.raw for part in kept)]
    if cut:
        picture += [chunk(b"IDAT", stream), _END]
    tiny = chunk(b"IHDR", _TINY_HEADER) + b"".join(metadata) + chunk(b"IDAT", _TINY_PIXEL)
    return Png(
        b"".join(picture),
        SIGNATURE + tiny + _END,
        animated,
        rows,
        tuple(sorted(left_out)),
    )


def _chunks(data: bytes) -> Iterator[_Chunk]:
    position, view = len(SIGNATURE), memoryview(data)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length + 4
        part = _Chunk(kind, view[position:end], position, end <= len(data), False)
        part.sound = part.whole and zlib.crc32(part.body, zlib.crc32(kind)) == int.from_bytes(
            view[end - 4 : end], "big"
        )
        yield part
        position = end


def _complete(stream: bytes, header: tuple[int, ...], name: str) -> tuple[bytes, int | None]:
    """Fill up the picture of a file that is cut short; return it and how many rows are there, None for all."""
    width, height, bits, colour, _, _, interlaced = header
    row = 1 + (width * _CHANNELS.get(colour, 0) * bits + 7) // 8
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(stream, row * height)
    except zlib.error as error:
        raise _damaged(name, str(error)) from error
    if interlaced:
        if inflate.eof:
            return stream, None
        raise ImageError(f"{name}: truncated, and interlaced, so that every part lacks rows; copy or download it again")
    rows = min(len(raw) // row, height)
    if not rows:
        raise ImageError(f"{name}: truncated: no row of pixels is there; copy or download it again")
    if rows == height:
        return zlib.compress(raw[: rows * row], 1), None
    packer = zlib.compressobj(1)
    packed = [packer.compress(raw[: rows * row])]
    packed += [packer.compress(bytes(row)) for _ in range(height - rows)]
    return b"".join([*packed, packer.flush()]), rows


def _damaged(name: str, what: str) -> ImageError:
    return ImageError(f"{name}: damaged: {what}; copy or download it again")
