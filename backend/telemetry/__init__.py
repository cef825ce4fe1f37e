"""Logging, metrics and the GPU sampler."""
