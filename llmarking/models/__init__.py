"""The models and adapters there are, whether they fit, and how they come onto this machine."""
