"""What can be said of programs, as text for a terminal."""
