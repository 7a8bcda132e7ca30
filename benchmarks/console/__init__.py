"""The pictures of the console in the documents, of a real Guard under attack."""
