import bz2
import gzip
import io
import random
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tasks.line_stream import Compression, DamagedStreamError, decompress, split_lines

LINES = b"".join(b"line %d of a file that compresses\n" % number for number in range(5000))


def compress(body: bytes, compression: Compression) -> bytes:
    if compression == "gz":
        return gzip.compress(body)
    if compression == "bz2":
        return bz2.compress(body)
    return zstandard.compress(body) if compression == "zst" else body


def drain(body: bytes, compression: Compression) -> bytes:
    return b"".join(decompress(io.BytesIO(body), compression))


@given(
    st.lists(st.binary(max_size=8).map(lambda piece: piece.replace(b"\n", b"")), max_size=12),
    st.integers(1, 9),
    st.integers(0, 10),
)
def test_lines_do_not_depend_on_how_the_file_is_cut(
    lines: list[bytes], chunk: int, limit: int
) -> None:
    body = b"\n".join(lines)
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    expected = body.split(b"\n")
    # An LF ends a line, so the last one is a line only when something follows the last LF.
    expected = expected if expected[-1] else expected[:-1]

    assert list(split_lines(chunks, limit)) == [
        line if len(line) <= limit else None for line in expected
    ]


@pytest.mark.parametrize("compression", ["", "gz", "zst", "bz2"])
def test_what_was_compressed_comes_back(compression: Compression) -> None:
    assert drain(compress(LINES, compression), compression) == LINES


@pytest.mark.parametrize("compression", ["gz", "zst", "bz2"])
def test_concatenated_members_are_one_stream(compression: Compression) -> None:
    body = compress(b"first\n", compression) + compress(LINES, compression)
    assert drain(body, compression) == b"first\n" + LINES


def test_zeros_after_a_gzip_member_are_padding() -> None:
    assert drain(gzip.compress(LINES) + bytes(600), "gz") == LINES


@pytest.mark.parametrize("compression", ["gz", "zst", "bz2"])
def test_a_truncated_stream_is_noticed_wherever_it_ends(compression: Compression) -> None:
    body = compress(LINES, compression)
    for size in [0, 3, len(body) // 2, len(body) - 1]:
        with pytest.raises(EOFError, match="ends before"):
            drain(body[:size], compression)


@pytest.mark.parametrize("compression", ["gz", "zst", "bz2"])
def test_bytes_that_no_compressor_wrote_are_damage(compression: Compression) -> None:
    with pytest.raises(DamagedStreamError, match=r"header check|[Uu]nknown frame|Invalid data"):
        drain(b"not compressed at all, only named so", compression)


def test_an_altered_checksum_is_damage() -> None:
    body = bytearray(gzip.compress(LINES))
    body[-5] ^= 1
    with pytest.raises(DamagedStreamError, match="incorrect data check"):
        drain(bytes(body), "gz")


@pytest.mark.parametrize("compression", ["gz", "zst", "bz2"])
def test_a_line_far_above_the_limit_is_skipped_in_bounded_memory(compression: Compression) -> None:
    body = compress(bytes(100_000_000) + b"\nnext", compression)
    tracemalloc.start()
    lines = list(split_lines(decompress(io.BytesIO(body), compression), 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert lines == [None, b"next"]
    assert peak < 30_000_000


def test_bytes_after_a_bzip2_stream_are_damage_and_cost_nothing_before_them() -> None:
    chunks = decompress(io.BytesIO(bz2.compress(LINES) + b"not bzip2 at all"), "bz2")
    found: list[bytes] = []
    with pytest.raises(DamagedStreamError, match="Invalid data stream"):
        found.extend(chunks)
    assert b"".join(found) == LINES


def test_a_damaged_bzip2_block_costs_no_block_before_it() -> None:
    # Two blocks of 100,000 bytes each and more; the second begins behind the middle.
    body = random.Random(0).randbytes(150_000)
    packed = bytearray(bz2.compress(body, compresslevel=1))
    packed[-1000] ^= 255
    found: list[bytes] = []
    with pytest.raises(DamagedStreamError, match="Invalid data stream"):
        found.extend(decompress(io.BytesIO(bytes(packed)), "bz2"))
    assert body[:90_000] == b"".join(found)[:90_000]
