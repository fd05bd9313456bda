"""What can be told about an answer without a model: a clean copy to grade, and flags."""
