"""The learning rate: its schedules, and the test that finds its range."""
