"""Layers and model files to and from Keras."""
