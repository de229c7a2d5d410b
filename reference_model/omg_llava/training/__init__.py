"""Training of OMG-LLaVA."""
