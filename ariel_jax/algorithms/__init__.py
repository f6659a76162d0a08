"""The reimplemented systems, one folder each; none imports another."""
