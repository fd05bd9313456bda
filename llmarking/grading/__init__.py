"""From a question and an answer to verdicts, marks and explanations, through an engine."""
