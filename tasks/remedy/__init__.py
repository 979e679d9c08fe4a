"""What happens after a FAIL: merges and retrainings within a budget, each on record."""
