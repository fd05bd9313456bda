"""What the client can ask of a server, and how each answer is read."""
