"""Diffusion beyond Gaussian noise in flat space: tokens, sets, circle and sphere, cold and charged relatives."""
