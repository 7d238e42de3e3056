"""From raw text to fairseq's binarised data: normalisation, tokenisers, binarisation, manifest."""
