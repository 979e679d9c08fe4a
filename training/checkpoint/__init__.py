"""The state of a run, whole or not at all."""
