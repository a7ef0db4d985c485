"""The report of a study, or of a search on one's own rows: one page of HTML, the same tables as text, figures as files.

Everything is made from records, and every number leads back to the record it was made from. What the records do not
hold is left out.
"""
