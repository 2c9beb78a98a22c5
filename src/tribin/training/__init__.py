"""Training: one trainer for every model."""
