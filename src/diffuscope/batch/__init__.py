"""A list of requests, made by one process or by several."""
