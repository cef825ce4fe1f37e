"""Every error the project raises on purpose, as one tree.

    TTSError
    ├── InvalidInputError            the request cannot be served as it is
    │   ├── InvalidTextError         empty, too long, or nothing to speak
    │   ├── InvalidAudioError        not audio, truncated, silent, too short
    │   │   └── AudioTooLongError
    │   ├── UnsupportedFormatError   an output format that is not offered
    │   └── PromptTooLongError       references and text exceed the model's positions
    ├── VoiceNotFoundError
    ├── PayloadTooLargeError
    ├── QueueFullError               try again after ``retry_after_s``
    ├── EngineUnavailableError       starting, restarting or closed
    │   └── ServiceClosedError
    ├── GenerationError              the engine failed while it worked on a request
    ├── RequestNotFoundError
    └── ConfigurationError           stops the start
        ├── SettingsError
        └── CheckpointError
            └── CheckpointMismatchError

One table in ``backend/api/errors.py`` maps each class to an HTTP status; a test holds the two
together. Messages are read by users: they say what is wrong and what to do about it.
"""

from __future__ import annotations


class TTSError(Exception):
    """Base of every error raised on purpose."""


class InvalidInputError(TTSError):
    """The request cannot be served as it is; the message names the fix."""


class InvalidTextError(InvalidInputError):
    """The text is empty, too long, or holds nothing to speak."""


class InvalidAudioError(InvalidInputError):
    """An uploaded recording cannot be used: not audio, truncated, silent, too short."""


class AudioTooLongError(InvalidAudioError):
    """A recording lasts longer than the limit."""


class UnsupportedFormatError(InvalidInputError):
    """An output format or sample rate that is not offered."""


class PromptTooLongError(InvalidInputError):
    """References and text together need more positions than the model has."""


class VoiceNotFoundError(TTSError):
    """No voice has this name; the message lists the known ones."""


class PayloadTooLargeError(TTSError):
    """A body or an upload is larger than the limit."""


class QueueFullError(TTSError):
    """Too many requests are waiting.

    Args:
        message: What happened, for the client.
        retry_after_s: Seconds after which a new try has a chance.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineUnavailableError(TTSError):
    """The engine is starting, restarting or gone."""


class ServiceClosedError(EngineUnavailableError):
    """The service is shutting down."""


class GenerationError(TTSError):
    """The engine failed while it worked on a request."""


class RequestNotFoundError(TTSError):
    """No record is kept of this request id."""


class ConfigurationError(TTSError):
    """The service cannot start like this."""


class SettingsError(ConfigurationError):
    """A setting is unknown or malformed; the message names it."""


class CheckpointError(ConfigurationError):
    """Model files are missing, unreadable or of an unknown kind."""


class CheckpointMismatchError(CheckpointError):
    """Tensors are missing, extra or misshaped; the message names them."""
