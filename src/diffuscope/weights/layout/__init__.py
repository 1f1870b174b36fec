"""Other formats' names for our tensors and configs, as tables that work both ways."""
