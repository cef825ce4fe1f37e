"""The codec: samples to codes (``encode_reference``) and codes to samples (``decode_frames``).

``codec.py`` is the whole; ``encoder.py``, ``quantizer.py``, ``decoder.py`` its parts;
``transformer.py`` and ``layers.py`` what they are built of; ``state.py`` what a stream carries
from one call to the next and ``state_pool.py`` that of many streams; ``weights.py`` reads
checkpoints. The networks need torch alone: only ``weights.py`` imports what reads files.
"""

from backend.models.codec.codec import Codec
from backend.models.codec.config import S1_MINI, CodecConfig
from backend.models.codec.state import DecodeState

__all__ = ["S1_MINI", "Codec", "CodecConfig", "DecodeState"]
