"""Of what framework weights are, and in which order, by what they compute."""
