"""An OpenAI-compatible server of one loaded model: transformers' own, and what stands before and
beside it. Does not load models, see `live`, or read the command line, see `commands.serve`."""
