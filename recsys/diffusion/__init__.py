"""Conditions -> preference: a diffusion head that draws item latents, and the plain heads it is measured against.

Takes arrays (conditions [P, d_h], targets [P], latents [N, D]); writes what it trained as safetensors and JSON.
"""
