"""Text to symbols and back: tokenisers, what is done to a line before, their files in other formats."""
