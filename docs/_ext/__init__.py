"""Extensions of Sphinx that this site needs."""
