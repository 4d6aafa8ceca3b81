"""Studies: many runs of one base configuration, tuned by halving and compared fairly."""
