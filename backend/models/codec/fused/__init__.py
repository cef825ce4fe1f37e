"""The codec's decoding half as a chain of few, fused operations over channels-last signals."""
