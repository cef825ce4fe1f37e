"""What the engine does next: sequences and the scheduler."""
