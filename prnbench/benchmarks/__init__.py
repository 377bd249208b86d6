"""What `prnbench benchmark` runs: each measures side by side in one run and returns records with ratios."""
