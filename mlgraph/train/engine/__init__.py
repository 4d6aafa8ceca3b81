"""The engine that runs phase programs."""
