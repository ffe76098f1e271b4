"""The DRIFT algorithm and everything around it that needs no tensor library."""
