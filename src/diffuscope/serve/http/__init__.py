"""The doors of an Engine over HTTP: our own interface and OpenAI's. They translate; the Engine decides."""
