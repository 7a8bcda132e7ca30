"""What clients sent before: keyed fingerprints of inputs, a bounded memory of them; and who probes around one."""
