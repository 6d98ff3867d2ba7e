"""What ranks the catalogue for a history: the language model, the diffusion preference module, and both fused."""
