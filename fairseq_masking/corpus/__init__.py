"""From raw text to a binarised corpus, and its reading: checked files, dictionary, manifest."""
