"""The image, really built and run. `make test-image` collects this folder, `make test` does not."""
