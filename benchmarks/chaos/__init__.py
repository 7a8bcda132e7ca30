"""What Guard bears: faults, floods and long runs, in front of the real Triton."""
