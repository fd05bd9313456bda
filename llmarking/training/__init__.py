"""From graded answers to an adapter: data, rows of tokens, the loop, figures, promotion."""
