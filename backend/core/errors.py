"""Every error the project raises on purpose, as one tree.

    TTSError
    ├── InvalidInputError            the request cannot be served as it is
    │   ├── InvalidTextError         empty, too long, or nothing to speak
    │   ├── InvalidAudioError        not audio, truncated, silent, too short
    │   │   └── AudioTooLongError
    │   ├── UnsupportedFormatError   an output format that is not offered
    │   ├── InvalidVoiceError        a voice's name, text or note that cannot be kept
    │   ├── InvalidBundleError       a file that is no voice, or another codec's
    │   └── PromptTooLongError       references and text exceed the model's positions
    ├── VoiceNotFoundError
    ├── VoiceExistsError             the name is taken
    ├── VoiceReadOnlyError           the voice belongs to the model
    ├── VoiceUnusableError           made with another codec, or damaged
    ├── VoiceLimitError              no more voices or recordings are kept
    ├── VoiceStorageError            the disk failed
    ├── ModelNotFoundError
    ├── PayloadTooLargeError
    ├── RequestTimeoutError          the body came too slowly
    ├── AuthenticationError          no key, or a wrong one
    ├── OriginNotAllowedError        a web page of a foreign origin asks
    ├── RateLimitError               try again after ``retry_after_s``
    ├── QueueFullError               try again after ``retry_after_s``
    │   └── OverloadedError          one more stream would be too many; tells the predicted TTFA
    ├── DeadlineExceededError        the speech was not ready in time
    ├── EngineUnavailableError       starting, restarting or closed
    │   └── ServiceClosedError
    ├── NotOfferedError              a part of another API that this project does not have
    ├── GenerationError              the engine failed while it worked on a request
    │   └── EngineDiedError          it died, and the request cannot be begun anew
    ├── RequestNotFoundError
    ├── JobNotFoundError
    ├── JobStateError                not what this job can do now
    ├── JobLimitError                no more jobs, or no more of their data, are kept
    ├── JobStorageError              the disk failed
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


class InvalidVoiceError(InvalidInputError):
    """A name, language, tag, note or transcript that a voice cannot have."""


class InvalidBundleError(InvalidInputError):
    """A file that is not an exported voice, is damaged, or belongs to another codec."""


class PromptTooLongError(InvalidInputError):
    """References and text together need more positions than the model has."""


class VoiceNotFoundError(TTSError):
    """No voice has this name; the message lists the known ones."""


class VoiceExistsError(TTSError):
    """A voice of this name is there already; names are the same in upper and lower case."""


class VoiceReadOnlyError(TTSError):
    """The voice came with the model and cannot be changed."""


class VoiceUnusableError(TTSError):
    """The voice's codes do not fit the loaded model or are damaged; the message names the fix."""


class VoiceLimitError(TTSError):
    """As many voices, or recordings of one voice, are kept as may be."""


class VoiceStorageError(TTSError):
    """The folder of voices cannot be read or written."""


class ModelNotFoundError(TTSError):
    """No model has this name; the message lists the known ones."""


class PayloadTooLargeError(TTSError):
    """A body or an upload is larger than the limit."""


class RequestTimeoutError(TTSError):
    """The client began a request and took too long to send the rest of it."""


class AuthenticationError(TTSError):
    """The service asks for an API key, and none or a wrong one was given."""


class OriginNotAllowedError(TTSError):
    """A web page that is not in the list of allowed origins calls the service."""


class RateLimitError(TTSError):
    """One caller asks for more than its share.

    Args:
        message: Which share, for the client.
        retry_after_s: Seconds after which a new try has a chance.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFullError(TTSError):
    """Too many requests are waiting.

    Args:
        message: What happened, for the client.
        retry_after_s: Seconds after which a new try has a chance.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(QueueFullError):
    """The engine could not keep up with one more stream, or not soon enough.

    Args:
        message: What happened, for the client.
        retry_after_s: Seconds after which a new try has a chance.
        predicted_ttfa_s: Seconds after which the first sound was expected, if that is known.
    """

    def __init__(
        self, message: str, *, retry_after_s: float = 1.0, predicted_ttfa_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.predicted_ttfa_s = predicted_ttfa_s


class DeadlineExceededError(TTSError):
    """The engine took longer than ``REQUEST_TIMEOUT_S`` allows."""


class EngineUnavailableError(TTSError):
    """The engine is starting, restarting or gone."""


class ServiceClosedError(EngineUnavailableError):
    """The service is shutting down."""


class NotOfferedError(TTSError):
    """Other servers of this dialect can do it; this one cannot, and says so."""


class GenerationError(TTSError):
    """The engine failed while it worked on a request."""


class EngineDiedError(GenerationError):
    """The engine died while it worked on a request that cannot be begun anew."""


class RequestNotFoundError(TTSError):
    """No record is kept of this request id."""


class JobNotFoundError(TTSError):
    """No job has this id."""


class JobStateError(TTSError):
    """The job cannot do this in its present state, or with the model that is loaded."""


class JobLimitError(TTSError):
    """As many jobs, or as much of their data, are kept as may be; delete some."""


class JobStorageError(TTSError):
    """The jobs cannot be read from the disk or written to it."""


class ConfigurationError(TTSError):
    """The service cannot start like this."""


class SettingsError(ConfigurationError):
    """A setting is unknown or malformed; the message names it."""


class CheckpointError(ConfigurationError):
    """Model files are missing, unreadable or of an unknown kind."""


class CheckpointMismatchError(CheckpointError):
    """Tensors are missing, extra or misshaped; the message names them."""
