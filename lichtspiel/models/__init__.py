"""The networks: one model, one file, each a plain single-device `nn.Module` with the published attribute names."""
