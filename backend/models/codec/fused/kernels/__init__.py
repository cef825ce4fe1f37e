"""Triton kernels of the fused codec; ``triton_ops.py`` starts them."""
