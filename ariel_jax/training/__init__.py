"""The training loop and the parts every trainer uses."""
