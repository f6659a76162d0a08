"""Experiments on private training with projected gradients."""
