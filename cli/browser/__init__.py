"""The full-screen explorer: what is browsed as data, what coarsening would do, and the screen itself."""
