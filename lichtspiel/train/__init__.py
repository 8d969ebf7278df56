"""Training from scratch: clips in, weights out, on a processor or one GPU with the same command."""
