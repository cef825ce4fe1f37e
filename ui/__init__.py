"""The web pages. They know the backend's address and its HTTP interface, nothing else."""
