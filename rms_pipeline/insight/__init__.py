"""What people ask of the mirror: a day's work, who changed what, its worth, finding a record.

views/   a `.sql` file for each view: what a row is, its units, and how it is counted

What belongs here: questions in SQL, and what their answers mean. What does not: writing the mirror
(`mirror`), reading the API, and how an answer looks on a page (`web`).

A view is one more file in views/: `mirror.views` makes it when the tables are migrated. Its first
line is its version, which rises with every change. It brings its own comments.
"""
