"""A diffusion head that samples item latents for conditions, and the plain heads it is compared with.

Takes arrays (conditions [P, d_h], targets [P], latents [N, D]); writes trained heads as safetensors and JSON.
"""
