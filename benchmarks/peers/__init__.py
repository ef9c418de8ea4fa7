"""Other people's few-call samplers, as rows of the study: one method a file."""
