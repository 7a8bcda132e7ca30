"""Evidence for responders: a chained log of decisions, the inputs behind them, and what shows both."""
