"""What Guard costs on the way: proxies beside each other in front of the real Triton."""
