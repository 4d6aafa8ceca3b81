"""What can be said of programs, as data."""
