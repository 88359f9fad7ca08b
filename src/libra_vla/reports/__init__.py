"""Reports: what a run showed, as one self-contained HTML page."""
