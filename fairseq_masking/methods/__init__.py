"""A folder a paper: model, criterion, options and all that it alone uses; ``base`` is what they share."""
