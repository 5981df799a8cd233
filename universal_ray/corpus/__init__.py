"""Text and tokens: documents, tokenised rows, and which tokens count."""
