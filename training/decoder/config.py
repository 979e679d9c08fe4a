"""The architecture of the native decoder; ``training.config`` has the rules of these classes."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from infra.bounds import FORBID_UNKNOWN, Bounds
from training.decoder.families import family_of
from training.identity import ADDED_LATER


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """Rotary positions stretched to a longer context than the model was first trained on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    kind: Literal["linear", "llama3"]
    """``linear``: all frequencies divided by ``factor`` (Chen et al. 2023, arXiv:2306.15595).
    ``llama3``: only the low ones, as in Llama 3.1; the three fields below are for it alone."""
    factor: Annotated[float, Bounds(ge=1)]
    """How many times longer the context becomes."""
    low_freq_factor: Annotated[float | None, Bounds(gt=0)] = None
    """Frequencies that turn less often than this in the old context are divided by ``factor``."""
    high_freq_factor: Annotated[float | None, Bounds(gt=0)] = None
    """Frequencies that turn more often than this in the old context stay; what lies between is
    interpolated."""
    original_max_position_embeddings: Annotated[int | None, Bounds(gt=0, unit="tokens")] = None
    """The old context."""

    def __post_init__(self) -> None:
        rest = (self.low_freq_factor, self.high_freq_factor, self.original_max_position_embeddings)
        if self.kind == "linear" and rest != (None, None, None):
            raise ValueError(
                "low_freq_factor, high_freq_factor and original_max_position_embeddings go with "
                "rope_scaling.kind llama3, not with linear: leave them out"
            )
        if self.kind == "llama3" and None in rest:
            raise ValueError(
                "rope_scaling.kind llama3 needs low_freq_factor, high_freq_factor and "
                f"original_max_position_embeddings, got {rest}: set all three"
            )
        low, high = self.low_freq_factor, self.high_freq_factor
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"rope_scaling.low_freq_factor {low:g} must be below high_freq_factor {high:g}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Architecture of the native decoder: Llama, Mistral, Qwen2, Qwen3, OLMo 2 and their like."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    vocab_size: Annotated[int, Bounds(gt=1, le=10_000_000)]
    """Rows of the embedding; for a lineage that starts from nothing also the size of the trained
    tokenizer."""
    hidden_size: Annotated[int, Bounds(gt=0, le=65_536)]
    num_layers: Annotated[int, Bounds(gt=0, le=1000)]
    num_heads: Annotated[int, Bounds(gt=0, le=4096)]
    num_kv_heads: Annotated[int, Bounds(gt=0, le=4096)]
    """Key and value heads; fewer than ``num_heads`` is grouped-query attention."""
    intermediate_size: Annotated[int, Bounds(gt=0, le=1_000_000)]
    """Width of the SwiGLU."""
    head_dim: Annotated[int | None, Bounds(gt=0, le=65_536)] = None
    """Width of one head; ``hidden_size / num_heads`` when not set."""
    rope_theta: Annotated[float, Bounds(gt=0)] = 10_000.0
    rms_norm_eps: Annotated[float, Bounds(gt=0)] = 1e-5
    tie_embeddings: bool = True
    """The output layer is the embedding."""
    qkv_bias: bool = False
    """Queries, keys and values have a bias (Qwen2)."""
    max_position_embeddings: Annotated[int, Bounds(gt=0, le=1_000_000_000, unit="tokens")] = 2048
    initializer_range: Annotated[float, Bounds(gt=0)] = 0.02
    """Standard deviation of the initial weights."""
    output_bias: bool = field(default=False, metadata=ADDED_LATER)
    """The output of attention has a bias; ``attention_bias`` of a config.json is this and
    ``qkv_bias``."""
    mlp_bias: bool = field(default=False, metadata=ADDED_LATER)
    """The three layers of the SwiGLU have a bias (Llama)."""
    qk_norm: Literal["head", "width"] | None = field(default=None, metadata=ADDED_LATER)
    """RMSNorm of queries and keys before they are rotated: over each head (Qwen3), or over the
    width of all heads together (OLMo 2)."""
    norm_position: Literal["before", "after"] = field(default="before", metadata=ADDED_LATER)
    """RMSNorm of what goes into attention and the SwiGLU, or of what comes out (OLMo 2)."""
    sliding_window: Annotated[int | None, Bounds(gt=0, unit="tokens")] = field(
        default=None, metadata=ADDED_LATER
    )
    """How many tokens a token attends to, itself included (Mistral); all before it when not
    set."""
    num_full_attention_layers: Annotated[int, Bounds(ge=0, le=1000)] = field(
        default=0, metadata=ADDED_LATER
    )
    """First layers that attend to everything although ``sliding_window`` is set (Qwen)."""
    rope_scaling: RopeScaling | None = field(default=None, metadata=ADDED_LATER)
    """For a context longer than the one that ``rope_theta`` alone was trained on."""

    def __post_init__(self) -> None:
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}: "
                "set head_dim"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}"
            )
        if self.head_width % 2:
            raise ValueError(
                f"the width of a head must be even, because rotary positions turn pairs of its "
                f"numbers, but it is {self.head_width}: set an even head_dim"
            )
        if self.num_full_attention_layers and self.sliding_window is None:
            raise ValueError(
                f"num_full_attention_layers is {self.num_full_attention_layers} but there is no "
                "sliding_window, so all layers attend to everything: set it to 0"
            )
        if self.num_full_attention_layers >= self.num_layers:
            raise ValueError(
                f"num_full_attention_layers {self.num_full_attention_layers} leaves no layer of "
                f"{self.num_layers} to sliding_window: lower it, or set no sliding_window"
            )
        # Now, and not when a model that was trained for days is exported.
        family_of(self)

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def family(self) -> str:
        """``model_type`` of the config.json that says the same."""
        return family_of(self)

    def window_of(self, layer: int) -> int | None:
        """How many tokens a token attends to in layer ``layer``, itself included; None: all."""
        return None if layer < self.num_full_attention_layers else self.sliding_window
