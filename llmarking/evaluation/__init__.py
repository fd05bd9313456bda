"""A run over a course, and what it found out: figures, plots, reports, comparisons."""
