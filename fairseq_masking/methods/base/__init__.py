"""What the models and criterions of all methods share."""
