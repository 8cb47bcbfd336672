"""Weights to and from PyTorch."""
