"""What is measured: relevance by label, agreement with exact search, speed. One file a question; plain arrays in, numbers out."""
