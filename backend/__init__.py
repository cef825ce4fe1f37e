"""A self-hosted Fish Speech server. Start reading at ``docs/design.md``."""

__version__ = "0.1.0"
