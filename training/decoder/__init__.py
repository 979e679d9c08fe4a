"""The native decoder: what is computed, and over which devices."""
