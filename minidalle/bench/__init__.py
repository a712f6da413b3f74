"""Speed and memory, measured: loading and converting, training, generation."""
