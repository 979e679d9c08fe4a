"""Causal models that ``transformers`` computes."""
