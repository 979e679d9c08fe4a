"""Hugging Face directories in and out of the native decoder."""
