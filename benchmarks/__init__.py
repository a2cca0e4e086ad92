"""Side-by-side measurements: `make bench`. Ratios within one run are what counts; absolutes drift with the machine."""
