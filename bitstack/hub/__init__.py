"""Uploads a container to the Hugging Face Hub, with a model card. Does not download; see
`original.hub_cache`."""
