"""What masks and their laws do to the gradient's variance."""
