"""The wire contract. `v1/` is generated from `proto/` by `make proto`; nothing here is written by hand."""
