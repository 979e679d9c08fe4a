"""Attention with a backward pass of its own: the gradients of plain attention."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.decoder.attention import segment_mask, segments_of
from training.decoder.tiled_attention import _products_in_bf16, tiled_attention

_mkldnn: Any = torch.backends.mkldnn


def _factors(
    rows: int, length: int, heads: int, keys: int, width: int = 16
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value that bf16 holds exactly."""
    generator = torch.Generator().manual_seed(0)

    def drawn(num: int) -> Tensor:
        x = torch.randn(rows, length, num, width, generator=generator)
        return x.bfloat16().float().transpose(1, 2)

    return drawn(heads), drawn(keys), drawn(keys)


def _mask(rows: int, length: int) -> Tensor:
    tokens = torch.randint(0, 6, (rows, length), generator=torch.Generator().manual_seed(1))
    return segment_mask(segments_of(tokens, start_id=0), window=None)


def _plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )


def _with_gradients(attention: Any, factors: tuple[Tensor, ...], mask: Tensor | None) -> Any:
    """Output, and the gradients of a fixed function of it, float32."""
    leaves = [x.detach().clone().requires_grad_() for x in factors]
    out = attention(*leaves, mask)
    weights = torch.linspace(-1, 1, out.shape[-1]).cos()
    (out.float() * weights * (1 + out.detach().float())).sum().backward()
    return [out.detach().float(), *(leaf.grad for leaf in leaves)]


def _tiled(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return tiled_attention(query, key, value.bfloat16(), mask)


def _in_bf16(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return _plain(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask)


def _errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((x - y).norm() / y.norm()) for x, y in zip(found, exact, strict=True)]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("rows", "length", "heads", "keys"),
    [(3, 64, 4, 4), (2, 65, 6, 2), (1, 1, 2, 1), (2, 300, 2, 2)],
)
def test_it_has_the_output_and_gradients_of_plain_attention(
    rows: int, length: int, heads: int, keys: int, masked: bool
) -> None:
    factors = _factors(rows, length, heads, keys)
    mask = _mask(rows, length) if masked else None
    exact = _with_gradients(_plain, factors, mask)

    found = _errors(_with_gradients(_tiled, factors, mask), exact)

    theirs = _errors(_with_gradients(_in_bf16, factors, mask), exact)
    for ours, kernel in zip(found, theirs, strict=True):
        assert ours < max(0.005, 1.1 * kernel)


def test_gradients_do_not_depend_on_how_many_rows_have_their_scores_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factors, mask = _factors(4, 32, 4, 2), _mask(4, 32)
    at_once = _with_gradients(_tiled, factors, mask)

    monkeypatch.setattr("training.decoder.tiled_attention.SCORES_AT_ONCE", 1)

    for one, other in zip(at_once, _with_gradients(_tiled, factors, mask), strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_not_seen_changes_nothing_however_large_it_is() -> None:
    """Its exponential alone would be infinite, and infinity times nothing is not a number."""
    query, key, value = _factors(2, 8, 2, 2)
    causal = torch.ones(8, 8, dtype=torch.bool).tril()
    mask = (causal & (torch.arange(8) > 0) | torch.eye(8, dtype=torch.bool))[None, None]
    large = key.clone()
    large[:, :, 0] *= 1e4
    found: list[list[Tensor]] = []
    for keys in (key, large):
        leaves = [x.clone().requires_grad_() for x in (query, keys, value)]
        out = _tiled(leaves[0], leaves[1], leaves[2], mask)[:, :, 1:]
        (out * out.detach()).sum().backward()
        found.append(
            [out.detach(), *(leaf.grad[:, :, 1:] for leaf in leaves if leaf.grad is not None)]
        )

    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_token_that_sees_only_itself_takes_its_own_value() -> None:
    query, key, value = _factors(1, 8, 2, 2)

    out = _tiled(query, key, value, torch.eye(8, dtype=torch.bool)[None, None])

    torch.testing.assert_close(out.float(), value)


def test_products_elsewhere_keep_their_precision() -> None:
    before = _mkldnn.matmul.fp32_precision
    query, key, value = (x.requires_grad_() for x in _factors(1, 8, 2, 2))
    seen: list[str] = []
    query.register_hook(lambda _: seen.append(_mkldnn.matmul.fp32_precision))

    tiled_attention(query, key, value.bfloat16(), None).sum().backward()

    assert seen == [before]
    with pytest.raises(KeyboardInterrupt), _products_in_bf16():
        raise KeyboardInterrupt
    assert _mkldnn.matmul.fp32_precision == before
