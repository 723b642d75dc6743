"""What the loader maps of a shared library (ELF, 64 bits)."""

import struct
from pathlib import Path

SECTION = struct.Struct("<IIQQQQIIQQ")
SECTION_TABLE_OFFSET, SECTION_COUNT_OFFSET = 40, 60
ALLOCATED, NO_BITS = 2, 8


def loaded_sections(library: Path) -> list[tuple[int, int, memoryview]]:
    """Return address, size and content of each section that is in memory after loading."""
    content = memoryview(library.read_bytes())
    (table,) = struct.unpack_from("<Q", content, SECTION_TABLE_OFFSET)
    (count,) = struct.unpack_from("<H", content, SECTION_COUNT_OFFSET)
    sections = []
    for index in range(count):
        entry = SECTION.unpack_from(content, table + index * SECTION.size)
        _, kind, flags, address, offset, size, *_ = entry
        if flags & ALLOCATED:
            data = content[offset : offset + (0 if kind == NO_BITS else size)]
            sections.append((address, size, data))
    return sections
