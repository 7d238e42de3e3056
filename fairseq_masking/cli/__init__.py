"""Console commands; scripts/ calls them."""
