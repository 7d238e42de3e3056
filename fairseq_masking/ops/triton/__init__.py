"""Triton kernels: imported only where ``dispatch.choose_impl`` answers ``triton``."""
