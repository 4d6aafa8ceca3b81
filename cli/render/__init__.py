"""What the verbs found, as text for a terminal. Nothing here computes more than a layout needs."""
