"""What models make of frozen items: holdouts of the suite, tasks, texts that a person names."""
