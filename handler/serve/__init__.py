"""The front ends and the generator behind them."""
