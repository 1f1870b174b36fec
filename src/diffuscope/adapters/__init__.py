"""LoRAs and embeddings in use: which are loaded, and what of them is in the networks now."""
