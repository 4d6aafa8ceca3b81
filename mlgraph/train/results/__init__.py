"""What runs cost and reached, compared and drawn."""
