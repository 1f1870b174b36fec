"""What image files say of their making: their texts, and the settings that programs write there."""

from diffuscope.metadata.forms import settings_of
from diffuscope.metadata.settings import Settings
from diffuscope.metadata.texts import ImageTexts, read_texts

__all__ = ["ImageTexts", "Settings", "read_texts", "settings_of"]
