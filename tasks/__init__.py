"""The steps of an update: plain functions that can be retried."""
