"""How many predictions have their logits in memory at once. Needs no torch."""

_LOGITS = {"cpu": 2**20, "cuda": 2**28}
_LEAST_ROWS = 512
# Two AMX cores, 2,048 predictions of 32,768 tokens, 512 wide, forward and backward in bf16: 2.58 s
# in chunks of 32, 0.68 s of 256, 0.64 s of 512, 0.56 s of 1,024. Every chunk passes over the whole
# gradient of the output layer. 8,192 predictions of 4,096 tokens, 256 wide: 80 ms in chunks of 256,
# 85 ms of 512, 110 ms of 1,024, as the logits leave the cache.


def rows_per_chunk(vocab_size: int, device_type: str) -> int:
    """Predictions of a chunk, each with ``vocab_size`` logits."""
    return max(_LEAST_ROWS, _LOGITS.get(device_type, _LOGITS["cuda"]) // vocab_size)
