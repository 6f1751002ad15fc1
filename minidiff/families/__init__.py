"""The other generative families, each small enough to be read beside diffusion: at present the VAE."""
