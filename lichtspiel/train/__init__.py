"""Training from scratch: any data set in, weights out, on a processor or one GPU with the same command."""
