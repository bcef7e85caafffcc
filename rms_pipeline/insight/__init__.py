"""What people ask of the mirror: a day's work, who changed what, finding a record.

What belongs here: questions in SQL, and what their answers mean. What does not: writing the mirror
(`mirror`), reading the API, and how an answer looks on a page (`web`).
"""
