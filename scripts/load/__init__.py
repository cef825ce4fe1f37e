"""The parts of ``scripts/load_test.py``: listeners, what they ask for, what they heard."""
