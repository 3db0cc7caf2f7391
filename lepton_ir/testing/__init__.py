"""For tests of passes, ours and those of plugins: the golden runner and its pytest plugin."""
