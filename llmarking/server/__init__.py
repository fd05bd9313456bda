"""The HTTP service: the app, what its routes share, and the process it runs in."""
