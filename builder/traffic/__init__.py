"""What a day of traffic costs on an endpoint or on Pods: a simulation of both."""
