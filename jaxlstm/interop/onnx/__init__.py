"""Operators and model files to and from ONNX."""
