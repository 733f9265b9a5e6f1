"""`python3 -m unittest` in benches/peers runs these."""
