"""The HTTP front end for load-balancing endpoints, Pods and `docker run -p`."""
