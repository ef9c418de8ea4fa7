"""What is wrong with demonstrations."""
