"""Plain masked language modelling (BERT), the baseline."""
