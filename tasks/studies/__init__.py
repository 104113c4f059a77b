"""The study: encoders and indexes compared on one data set, each index built, searched with several settings, and thrown away."""
