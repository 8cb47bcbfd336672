"""Weights to and from the modules of Flax, linen and nnx."""
