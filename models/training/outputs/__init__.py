"""What a run writes by choice: its best epochs, and the logs of other tools."""
