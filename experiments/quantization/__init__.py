"""What weights of 8 and 4 bits cost in quality."""
