"""The ways to send one attempt of an operation; `attempt.py` has the interface that they share."""
