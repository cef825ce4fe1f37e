"""The codec: samples to codes (``encode_reference``) and codes to samples (``decode_frames``).

``codec.py`` is the whole; ``encoder.py``, ``quantizer.py``, ``decoder.py`` its parts;
``transformer.py`` and ``layers.py`` what they are built of; ``state.py`` what a stream carries
from one call to the next; ``weights.py`` reads checkpoints.
"""

from backend.models.codec.codec import Codec
from backend.models.codec.config import S1_MINI, CodecConfig
from backend.models.codec.state import DecodeState
from backend.models.codec.weights import load_codec

__all__ = ["S1_MINI", "Codec", "CodecConfig", "DecodeState", "load_codec"]
