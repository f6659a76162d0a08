"""The product of activations with a weight matrix stored `[out, in]`."""
