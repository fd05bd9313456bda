"""The worker that grades classes in the background, and its results as files."""
