"""Weights of runs, out to files and out of files into runs."""
