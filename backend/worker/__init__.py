"""Where the engine runs, and how the API process talks to it."""
