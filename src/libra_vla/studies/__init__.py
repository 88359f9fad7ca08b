"""Studies: experiments of many evaluations, resumable, each with a table and a page."""
