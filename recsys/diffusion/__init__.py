"""A diffusion head that samples item latents for conditions, and the plain heads it is compared with."""
