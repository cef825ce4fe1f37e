"""Triton kernels of the decode step. Imported only where Triton is installed and a card is used."""
