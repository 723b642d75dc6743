"""What makes a start short, and what it was made of."""
