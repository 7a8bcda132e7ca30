"""Messages of the v2 inference protocol and of Envoy's, generated from proto/ by `make proto`. Not edited by hand."""
