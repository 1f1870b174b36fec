"""Recognising a weight file by the names and shapes in its header."""
