"""tribin: deep generative models with 1-bit weights."""
