"""What a run would cost, and what it could show, before anything is spent: ``python -m harness.plan``."""
