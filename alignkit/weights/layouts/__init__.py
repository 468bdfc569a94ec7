"""Where trainers leave weights, and where engines want them."""
