"""Bad steps, and what is done about them."""
