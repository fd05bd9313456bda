"""Arithmetic of marks, without an engine: probabilities, which mark stands, a class in numbers."""
