"""Tools that build images, prepare models and deploy endpoints."""
