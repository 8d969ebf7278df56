"""Training from scratch: any data set in, weights out, on the CPU or on one GPU with the same command."""
