"""The papers' measurements, in plain PyTorch and NumPy: no fairseq in here.

Gradient variance under masking (2010.06040, Theorem 1, Section 3.3): ``mask_draws`` draws masks of a fixed
sequence, ``gradients`` takes a gradient for each, ``gram`` their inner products; ``mask_variance``,
``mask_covariance`` and ``sentence_variance`` estimate from these, ``resampling`` gives the intervals,
``mask_measurement`` runs it all on a model, ``mask_figures`` draws.
"""
