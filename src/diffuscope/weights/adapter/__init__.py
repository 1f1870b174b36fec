"""LoRA, LyCORIS and textual inversion files."""
