"""What the test modules share: models, cases, servers and finished runs."""
