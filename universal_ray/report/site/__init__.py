"""From the tables of a run to a site that opens by a double click."""
