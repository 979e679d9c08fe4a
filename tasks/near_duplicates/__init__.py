"""Near-duplicates: documents that repeat most of an earlier one, of the batch or of the lineage."""
