"""Small deployments of Guard, each started by one command. See README.md beside this file."""
