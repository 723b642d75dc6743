"""HTTP: the front door for load-balancing endpoints, Pods and `docker run -p`, and the metrics."""
