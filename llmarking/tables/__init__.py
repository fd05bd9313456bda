"""A teacher's class files, in and out: bytes, columns and answers, and no HTTP."""
