"""Recipes of the shipped files: frozen configs, and the functions that run them."""
