"""The database of courses, answers, jobs and marks: functions of a transaction, and its tables."""
