"""Networks that look at finished images: their features, their classes, and how well they fit a text."""
