"""Quality, cost and the paper's tables, measured."""
