"""Answers to other programs: an HTTP base, and the privacy judge over HTTP and as an MCP server.

Both are started by `ariel-jax privacy serve` and `ariel-jax privacy mcp`.
"""
