"""Ready choices of sampling values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """How much speech varies.

    Attributes:
        key: Names it in the program.
        title: Names it for people.
        note: What it is good for.
    """

    key: str
    title: str
    note: str
    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int = 0
    repetition_penalty: float = 1.1

    @property
    def values(self) -> tuple[float, float, int, float]:
        """Temperature, top P, top K and repetition penalty."""
        return self.temperature, self.top_p, self.top_k, self.repetition_penalty


MODEL, CUSTOM = "model", "custom"
MAX_NEW_TOKENS = 1024
PRESETS = (
    Preset(MODEL, "The model's own", "The values the model was made for; none are sent."),
    Preset("steady", "Steady", "Even and predictable: news, instructions.", 0.55, 0.7, 0, 1.1),
    Preset("lively", "Lively", "More melody: stories, dialogue.", 0.9, 0.9, 0, 1.1),
    Preset("daring", "Daring", "Surprising takes; try several seeds.", 1.1, 0.95, 0, 1.2),
    Preset(CUSTOM, "My own", "Set every value below."),
)
BY_KEY = {preset.key: preset for preset in PRESETS}
