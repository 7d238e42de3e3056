"""Checkpoints in and out: loading, ``--init-from``, the hub interface, Hugging Face folders."""
