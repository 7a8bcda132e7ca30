"""What Guard catches on MNIST and CIFAR-10, and what it does not, by its own commands."""
