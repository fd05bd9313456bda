"""What the terminal scripts do: a chat, a student's tries, the demo."""
