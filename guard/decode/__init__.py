"""Protocol tensors to arrays in the model's own layout and scale."""
