"""Task items of the suite: where they come from, how they are frozen and scored, what they miss."""
