"""Where gradients come from and where they go: by lag, by way, by step and by gate."""
