"""Fish Audio's API, for ``fish-audio-sdk`` and whatever else speaks to api.fish.audio."""
