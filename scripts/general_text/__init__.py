"""The sources of the general calibration text: pieces of books, of this project, and written ones.

Each module gives lists of short pieces. Does not mix them; see `scripts/make_general_text.py`.
"""
