"""Programs turned back into executable modules and into files that other libraries read."""
