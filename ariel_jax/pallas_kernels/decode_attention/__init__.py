"""Attention of a few query rows over the rows a cache holds."""
