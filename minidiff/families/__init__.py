"""The other generative families, each small enough to be read beside diffusion, and what all must be compared with."""
