"""How many predictions have their logits in memory at once. Needs no torch."""

_LOGITS = {"cpu": 2**26, "cuda": 2**28}
_LEAST_ROWS = 1024
_FLOAT32_LOGITS_ON_CPU = 2**19
# Two AMX cores, 2,048 predictions of 32,768 tokens, 512 wide, forward and backward in bf16: 508 ms
# in chunks of 256, 402 ms of 512, 347 ms of 1,024, 298 ms of 2,048, as every chunk passes over the
# whole gradient of the output layer; of 8,192 tokens, 256 wide: 38, 34, 32 and 33 ms.


def rows_per_chunk(vocab_size: int, device_type: str) -> int:
    """Predictions of a chunk, each with ``vocab_size`` logits in the precision of products."""
    return max(_LEAST_ROWS, _LOGITS.get(device_type, _LOGITS["cuda"]) // vocab_size)


def rows_in_float32(vocab_size: int, device_type: str) -> int:
    """Predictions of a chunk whose logits are float32 at once; a GPU has no reason to cut them.

    On a processor softmax and derivative pass over them five times. 2 MiB stay in its cache: with
    all of a chunk at once the loss takes a half longer.
    """
    if device_type != "cpu":
        return rows_per_chunk(vocab_size, device_type)
    return max(1, _FLOAT32_LOGITS_ON_CPU // vocab_size)
