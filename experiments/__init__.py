"""Experiments: scripts that measure the library and rebuild what it ships."""
