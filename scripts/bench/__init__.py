"""Parts of ``scripts/benchmark.py`` and ``scripts/doctor.py``."""
