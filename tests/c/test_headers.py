"""The public headers, as other people's programs include them: any standard, all warnings, C and C++.

The build needs no C++ compiler, and neither do these tests: each compiler is tried where it is installed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

INCLUDE = Path(__file__).parents[2] / "vswitch"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
LANGUAGES = [
    pytest.param(compiler, standard, suffix, id=f"{compiler}-{standard}")
    for compilers, standards, suffix in (
        (("cc", "clang-19"), ("c99", "gnu99", "c11", "gnu17"), "c"),
        (("c++", "clang++-19"), ("c++11", "c++17", "gnu++20"), "cc"),
    )
    for compiler in compilers
    if shutil.which(compiler)
    for standard in standards
]
HEADERS = ["libvswitch.h", "netmap_ring.h"]
BODY = {
    "netmap_ring.h": """
        uint64_t first_word(const struct nmr_area *area);
        uint64_t first_word(const struct nmr_area *area)
        {
            const struct netmap_ring *ring = nmr_ring(area, 0, 0);
            uint32_t kicked = 0;

            if (nmr_must_kick(&nmr_ktoa(area, 0, 0)->kern_need_kick, &kicked))
                return nmr_buf(area, NMR_FIRST_BUF)[0] + (uint64_t)nmr_nifp(area, 0)->ring_ofs[0];
            return nmr_read_slot(&ring->slot[nmr_next(nmr_take(&nmr_atok(area, 0, 0)->head), ring->num_slots)]);
        }
    """,
    "libvswitch.h": """
        int send_one(struct vsw_ring *ring);
        int send_one(struct vsw_ring *ring)
        {
            struct netmap_ring *tx = vsw_ring_tx(ring, 0);
            struct netmap_slot *slot = &tx->slot[tx->head];

            vsw_ring_buf(tx, slot->buf_idx)[0] = 0xff;
            slot->len = 60;
            tx->head = tx->cur = nmr_next(tx->head, tx->num_slots);
            return vsw_ring_sync(ring, VSW_TX);
        }
    """,
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(("compiler", "standard", "suffix"), LANGUAGES)
def test_header_compiles_on_its_own(header: str, compiler: str, standard: str, suffix: str, tmp_path: Path) -> None:
    """Neither it nor an inline function of it costs a warning."""
    source = tmp_path / f"program.{suffix}"
    source.write_text(f"#include <{header}>\n{BODY[header]}\n")
    command = [
        compiler,
        f"-std={standard}",
        *WARNINGS,
        f"-I{INCLUDE}",
        "-c",
        str(source),
        "-o",
        f"{tmp_path}/program.o",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
