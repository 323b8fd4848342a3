"""Measures answers: by kind of question, by plan, and from what an attacker reconstructs."""
