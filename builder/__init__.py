"""What runs while an image is built, and before a deployment."""
