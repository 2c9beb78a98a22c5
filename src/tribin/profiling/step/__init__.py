"""Training steps, timed by phase."""
