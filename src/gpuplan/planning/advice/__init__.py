"""What a change of batch, GPUs or task means for a training's settings, with sources. Pure."""
