"""The stages of a build, one module per stage, and the packages that implement them."""
