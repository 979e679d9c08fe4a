"""Items of tasks: questions with a right answer, and what a model makes of them."""
