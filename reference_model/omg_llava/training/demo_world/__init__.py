"""Training data of the demo world, written as the official data sets are laid out."""
