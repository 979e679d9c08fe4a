"""One model over several devices: which way, and how much memory that takes."""
