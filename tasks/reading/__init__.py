"""Readers of single file formats: an open file in, records and rejects out."""
