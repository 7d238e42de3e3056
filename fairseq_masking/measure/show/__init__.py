"""What a model masks or replaces, shown in the text."""
