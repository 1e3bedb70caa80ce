"""The ledger of everything that was moved, and the vocabulary that the other packages share."""
