"""Numpy in, bytes out: read uploads, resample, measure, encode streams."""
