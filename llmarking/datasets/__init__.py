"""Courses to measure and train on, read from the forms of others and from ours."""
