import bz2
import gzip
import io
import random
import struct
import tracemalloc
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tasks.line_stream import (
    Compression,
    DamagedStreamError,
    ExpansionError,
    Part,
    decompress,
    decompress_parts,
    split_lines,
)

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
    st.lists(st.sampled_from([b"a", b"bc", b"\xff", b"\0", b"\r", b"\n", b"\r\n"])).map(b"".join),
    st.integers(1, 9),
    st.integers(0, 10),
)
def test_lines_end_as_those_of_python_do_however_the_file_is_cut(
    body: bytes, chunk: int, limit: int
) -> None:
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    lines = body.splitlines(keepends=True)
    # The end stays where it is more than an LF.
    expected = [line if line.endswith(b"\r\n") else line.removesuffix(b"\n") for line in lines]

    assert list(split_lines(chunks, limit)) == [
        line if len(line) <= limit else None for line in expected
    ]


def test_a_line_whose_cr_is_the_last_byte_before_damage_is_whole() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"one\rtw"
        yield b"o\r"
        raise DamagedStreamError("here")

    lines = split_lines(chunks(), 9)
    assert [next(lines), next(lines)] == [b"one\r", b"two\r"]
    with pytest.raises(DamagedStreamError, match="here"):
        next(lines)


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


def _parts(body: bytes, compression: Compression) -> list[Part]:
    return [part for part in decompress_parts(io.BytesIO(body), compression) if part]


@pytest.mark.parametrize("compression", ["gz", "zst", "bz2"])
@given(place=st.integers(0, 10**6), is_cut=st.booleans(), flip=st.integers(1, 255))
def test_damage_to_one_member_costs_no_line_of_another(
    compression: Compression, place: int, is_cut: bool, flip: int
) -> None:
    members = [
        b"".join(b"%d of member %d\n" % (line, member) for line in range(300))
        for member in range(3)
    ]
    first, damaged, last = (bytearray(compress(member, compression)) for member in members)
    if is_cut:
        # At least its begin is there; a member of which all is gone was never there.
        del damaged[4 + place % (len(damaged) - 5) :]
    else:
        damaged[place % len(damaged)] ^= flip
    parts = _parts(bytes(first + damaged + last), compression)
    found = b"".join(part for part in parts if isinstance(part, bytes))
    assert found.startswith(members[0])
    assert found.endswith(members[2])
    # A changed byte of a header (its time, say) or of text without a checksum goes unnoticed.
    errors = [part for part in parts if isinstance(part, DamagedStreamError)]
    assert len(errors) <= 1 or not is_cut


@pytest.mark.parametrize("compression", ["gz", "zst", "bz2"])
def test_damage_without_anything_good_behind_it_is_told_once(compression: Compression) -> None:
    magic = compress(b"x", compression)[: 10 if compression == "bz2" else 4]
    parts = _parts(compress(b"good\n", compression) + (magic + b"\xff" * 40) * 50, compression)
    assert parts[0] == b"good\n"
    assert [type(part) for part in parts[1:]] == [DamagedStreamError]


@pytest.mark.parametrize("compression", ["gz", "zst", "bz2"])
def test_a_file_is_not_unpacked_beyond_its_limit(compression: Compression) -> None:
    body = compress(bytes(1_000_000), compression)
    assert len(b"".join(decompress(io.BytesIO(body), compression, max_bytes=1_000_000))) == 10**6
    found: list[bytes] = []
    with pytest.raises(ExpansionError, match="999,999 bytes that it may"):
        found.extend(decompress(io.BytesIO(body), compression, max_bytes=999_999))
    assert len(b"".join(found)) < 10**6


def test_a_plain_file_has_no_such_limit() -> None:
    assert b"".join(decompress(io.BytesIO(LINES), "", max_bytes=1)) == LINES


_DICTIONARY = zstandard.train_dictionary(2000, [b"line %d of a file" % n for n in range(3000)])


def _archive(dictionary: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(dict_data=_DICTIONARY)
    frames = b"".join(packer.compress(line) for line in LINES.splitlines(keepends=True)[:50])
    return struct.pack("<II", 0x184D2A5D, len(dictionary)) + dictionary + frames


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_dictionary_that_an_archive_begins_with_is_used(is_packed: bool) -> None:
    dictionary = _DICTIONARY.as_bytes()
    body = _archive(zstandard.compress(dictionary) if is_packed else dictionary)
    assert drain(body, "zst") == b"".join(LINES.splitlines(keepends=True)[:50])


def test_frames_that_hold_no_text_are_passed_over() -> None:
    note = struct.pack("<II", 0x184D2A50, 300) + bytes(300)
    body = note + zstandard.compress(b"one\n") + note + zstandard.compress(b"two\n") + note
    assert drain(body, "zst") == b"one\ntwo\n"


def test_a_dictionary_that_cannot_be_used_is_damage() -> None:
    head = struct.Struct("<II")
    with pytest.raises(DamagedStreamError, match="dictionary"):
        drain(_archive(b"no dictionary"), "zst")
    # Packed, it would be 100 MB.
    with pytest.raises(DamagedStreamError, match="dictionary has more than"):
        drain(_archive(zstandard.compress(bytes(100_000_000))), "zst")
    with pytest.raises(DamagedStreamError, match="dictionary has more than"):
        drain(head.pack(0x184D2A5D, 2**32 - 1) + bytes(20_000_000), "zst")
    with pytest.raises(EOFError, match="dictionary"):
        drain(head.pack(0x184D2A5D, 100) + bytes(50), "zst")


def test_a_truncated_stream_that_spells_the_begin_of_another_is_truncated() -> None:
    # Stored and not packed, so that the three bytes stand in the stream.
    body = gzip.compress(b"good\n" + b"\x1f\x8b\x08" * 1000, compresslevel=0)
    with pytest.raises(EOFError, match="ends before"):
        drain(body[:-100], "gz")
