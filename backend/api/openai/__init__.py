"""OpenAI's audio API, for clients that know no other: speech, models and voices."""
