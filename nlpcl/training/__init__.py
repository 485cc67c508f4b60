"""How a strategy trains: batches, optimizer, early stopping, devices and processes."""
