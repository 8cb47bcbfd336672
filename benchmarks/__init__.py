"""Side by side with peers: what takes how long, and by how much one is faster."""
