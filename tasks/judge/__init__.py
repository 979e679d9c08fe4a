"""Scores to verdict: bounds, tests, sentences. Pure: nothing here reads or writes."""
