"""Which tokenizers have a fast path, decided from tokenizer.json alone."""

from typing import Any

from training.fast_bpe import cut, merge

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST: cut.CL100K,
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST: cut.QWEN2,
}
"""Patterns of Llama 3 (cl100k) and Qwen2, as their tokenizer.json spell them."""
_INERT_POST_PROCESSORS = {
    "ByteLevel", "TemplateProcessing", "RobertaProcessing", "BertProcessing",
}  # fmt: skip
"""What only adds special tokens or moves offsets, of which we take neither."""


def why_slow(spec: dict[str, Any]) -> str:
    """Why a tokenizer has no fast path, or "" where it has one.

    Args:
        spec: The object in tokenizer.json.
    """
    return (
        _why_model(spec["model"])
        or _why_normalizer(spec.get("normalizer"))
        or (
            "" if pattern_of(spec) is not None else f"pre-tokenizer {_named(spec, 'pre_tokenizer')}"
        )
        or _why_post_processor(spec.get("post_processor"))
        or _why_added(spec.get("added_tokens") or [])
    )


def pattern_of(spec: dict[str, Any]) -> int | None:
    """How texts are cut into pieces: the kernel's number of it, None for a way it does not have."""
    before = spec.get("pre_tokenizer") or {}
    steps = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    cuts = steps[-1].get("use_regex", True)
    if len(steps) == 1:
        return cut.GPT2 if cuts else None
    if len(steps) > 2:
        return None
    first = steps[0]
    if first["type"] == "Digits" and cuts:
        return cut.GPT2_DIGITS if first["individual_digits"] else None
    if first["type"] == "Split" and not cuts:
        way = first["behavior"].lower(), first["invert"]
        is_whole = way in {("isolated", False), ("removed", True)}
        return _SPLITS.get(first["pattern"].get("Regex", "")) if is_whole else None
    return None


def normalises(spec: dict[str, Any]) -> bool:
    """Whether texts are brought to NFC first."""
    return bool(spec.get("normalizer"))


def added_texts(spec: dict[str, Any]) -> tuple[str, ...]:
    """What is one token wherever a text spells it: the added tokens that are not special."""
    return tuple(
        token["content"] for token in spec.get("added_tokens") or [] if not token["special"]
    )


def _why_model(model: dict[str, Any]) -> str:
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        return f"model {model.get('type')}"
    for name in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            return f"{name} {model[name]!r}"
    if len(model["merges"]) >= int(merge.NO_RANK):
        return f"{len(model['merges'])} merges"
    if max(model["vocab"].values(), default=0) >= (1 << merge.TOKEN_BITS) - 1:
        return f"token ids up to {max(model['vocab'].values())}"
    return ""


def _why_normalizer(normalizer: dict[str, Any] | None) -> str:
    if not normalizer or normalizer["type"] == "NFC":
        return ""
    return f"normalizer {normalizer['type']}"


def _why_post_processor(after: dict[str, Any] | None) -> str:
    if not after:
        return ""
    steps = after["processors"] if after["type"] == "Sequence" else [after]
    unknown = [step["type"] for step in steps if step["type"] not in _INERT_POST_PROCESSORS]
    return f"post-processor {unknown[0]}" if unknown else ""


def _why_added(added: list[dict[str, Any]]) -> str:
    """An added token that is ordinary text is looked for in every text: only ASCII, as spelled."""
    for token in added:
        content = token["content"]
        if not token["special"] and not (content and content.isascii()):
            return f"added token {content!r}"
    return ""


def _named(spec: dict[str, Any], part: str) -> str:
    value = spec.get(part) or {}
    steps = value.get("pretokenizers", [value])
    return " + ".join(str(step.get("type")) for step in steps)
