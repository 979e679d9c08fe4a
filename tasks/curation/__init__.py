"""What is found out about a text before it may be trained on, and the rules that judge it."""
