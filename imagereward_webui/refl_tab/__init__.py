"""The ReFL tab: its page, its form, its REST routes and the training processes behind them."""
