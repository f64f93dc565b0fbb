"""What is learned away from the requests' path, as functions from arrays."""
