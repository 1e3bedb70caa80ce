"""What the old product says it has: catalogue readers, the store they fill, one validator."""
