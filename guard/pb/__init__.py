"""Messages of the v2 inference protocol, generated from proto/inference by `make proto`. Not edited by hand."""
