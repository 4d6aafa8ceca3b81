"""What was worked out before, kept in the user's cache folder and checked before it is believed."""
