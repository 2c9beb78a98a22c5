"""Evaluation and sampling, timed: trained, packed and in float32."""
