"""HTTP: the front end for load-balancing endpoints, Pods and `docker run -p`, and the metrics."""
