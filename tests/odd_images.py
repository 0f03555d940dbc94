"""Image files that no library writes: of any bits, tags and chunks, and with damaged metadata."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

RAMP = np.linspace(0, 1, 8)[None] * np.ones((8, 1))  # 8 x 8, from black on the left to white


def png(width: int, height: int, colour: int, bits: int, rows: Sequence[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these rows; ``chunks`` stand before the pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*each) for each in chunks) + pixels + chunk(b"IEND", b"")


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of entries (tag, type, count, four bytes)."""
    packed = [struct.pack("<HHI4s", *entry) for entry in entries]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(packed) + bytes(4)


def tiff(
    width: int,
    height: int,
    bits: Sequence[int],
    strips: Sequence[bytes],
    tags: dict[int, Sequence[int]],
    compressed: bool = False,
) -> bytes:
    """A little-endian TIFF; black is zero, unless the tags say otherwise."""
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    sizes = list(map(len, strips))
    values = {256: [width], 257: [height], 258: bits, 259: [8 if compressed else 1], 262: [1], 277: [len(bits)]}
    values |= {278: [height], **tags, 279: sizes, 273: [0] * len(strips)}
    longs = (273, 279)  # places and sizes of the strips, of 32 bits; all other values have 16

    def pack(tag: int) -> bytes:
        return struct.pack(f"<{len(values[tag])}{'I' if tag in longs else 'H'}", *values[tag])

    place = 8 + 2 + 12 * len(values) + 4
    places = {}  # of values that have no room in the list of tags
    for tag in sorted(values):
        if len(pack(tag)) > 4:
            places[tag] = place
            place += len(pack(tag))
    values[273] = [place + sum(sizes[:number]) for number in range(len(strips))]
    entries = b""
    for tag in sorted(values):
        content = struct.pack("<I", places[tag]) if tag in places else pack(tag).ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, 4 if tag in longs else 3, len(values[tag])) + content
    later = b"".join(pack(tag) for tag in sorted(places))
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + later + b"".join(strips)
