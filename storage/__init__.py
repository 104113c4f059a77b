"""Records, paths and files: the only package that knows the layout of the storage root."""
