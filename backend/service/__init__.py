"""The async face in the API process: text, voices, caches, synthesis."""
